"""Time points of a patient: their order, their changes per week, and the figures that are followed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from CovidSegLib.results.followup import TimePoint, figures_of, follow_up

FIRST, WEEK_LATER, THREE_DAYS_LATER = date(2020, 3, 30), date(2020, 4, 6), date(2020, 4, 2)


def report(*, poi: float | None = 10.0, left: float | None = 5.0, infection_ml: float = 400.0) -> dict[str, Any]:
    """Return what is followed of a report.json."""

    def region(volume_ml: float, region_poi: float | None) -> dict[str, Any]:
        return {"volume_ml": volume_ml, "infection_ml": infection_ml, "poi_percent": region_poi}

    regions = {"lungs": region(4000.0, poi), "left_lung": region(1800.0, left), "right_lung": region(2200.0, 14.0)}
    return {"regions": regions, "severity": {"class": None if poi is None else "CT-1"}}


def test_change_per_week_is_the_difference_by_the_weeks_between() -> None:
    rows = follow_up(
        [
            TimePoint("a", report(poi=10.0, infection_ml=400.0), FIRST),
            TimePoint("b", report(poi=16.0, infection_ml=640.0), THREE_DAYS_LATER),
            TimePoint("c", report(poi=12.0, infection_ml=480.0), WEEK_LATER),
        ]
    )
    assert [row.days for row in rows] == [0, 3, 7]
    assert set(rows[0].change_per_week.values()) == {None}
    assert rows[1].change_per_week["poi_percent"] == pytest.approx(6.0 * 7 / 3)
    assert rows[2].change_per_week["poi_percent"] == pytest.approx(-4.0 * 7 / 4)
    assert rows[2].change_per_week["infection_ml"] == pytest.approx(-160.0 * 7 / 4)
    assert rows[2].change_per_week["lung_ml"] == 0.0
    assert rows[2].figures["poi_right_percent"] == 14.0
    assert rows[2].severity == "CT-1"


def test_dated_time_points_come_by_date_whatever_the_order_given() -> None:
    rows = follow_up([TimePoint("later", report(), WEEK_LATER), TimePoint("earlier", report(), FIRST)])
    assert [row.name for row in rows] == ["earlier", "later"]


def test_without_every_date_the_order_given_stays_and_only_dated_neighbours_change() -> None:
    rows = follow_up(
        [
            TimePoint("undated", report(poi=1.0)),
            TimePoint("first", report(poi=10.0), FIRST),
            TimePoint("second", report(poi=16.0), WEEK_LATER),
        ]
    )
    assert [row.name for row in rows] == ["undated", "first", "second"]
    assert [row.days for row in rows] == [None, 0, 7]
    assert [row.change_per_week["poi_percent"] for row in rows] == [None, None, pytest.approx(6.0)]


def test_same_day_has_no_change_per_week() -> None:
    rows = follow_up([TimePoint("morning", report(poi=10.0), FIRST), TimePoint("evening", report(poi=20.0), FIRST)])
    assert [row.name for row in rows] == ["morning", "evening"]
    assert set(rows[1].change_per_week.values()) == {None}


def test_going_back_in_time_has_no_change_per_week() -> None:
    rows = follow_up(
        [TimePoint("late", report(), WEEK_LATER), TimePoint("early", report(), FIRST), TimePoint("undated", report())]
    )
    assert [row.days for row in rows] == [7, 0, None]
    assert set(rows[1].change_per_week.values()) == {None}


def test_undefined_figure_has_no_change_while_the_others_have() -> None:
    rows = follow_up([TimePoint("a", report(left=None), FIRST), TimePoint("b", report(poi=11.0, left=6.0), WEEK_LATER)])
    assert rows[0].figures["poi_left_percent"] is None
    assert rows[1].change_per_week["poi_left_percent"] is None
    assert rows[1].change_per_week["poi_percent"] == pytest.approx(1.0)


def test_no_time_point_gives_no_row() -> None:
    assert follow_up([]) == ()


def test_figures_followed_are_in_the_report_of_real_quantities() -> None:
    import numpy as np
    from CovidSegLib.geometry import Geometry
    from CovidSegLib.quantify import quantify_labelmap

    labels_kji = np.zeros((2, 2, 5), dtype=np.uint8)
    labels_kji[..., 3:] = [1, 3]
    quantities = quantify_labelmap(
        np.full(labels_kji.shape, -700, dtype=np.int16),
        geometry=Geometry((5, 2, 2), (10.0, 10.0, 10.0)),
        labelmap_kji=labels_kji,
    )
    assert figures_of(quantities.to_dict()) == {
        "poi_percent": 50.0,
        "poi_left_percent": 50.0,
        "poi_right_percent": None,
        "lung_ml": 8.0,
        "left_lung_ml": 8.0,
        "right_lung_ml": 0.0,
        "infection_ml": 4.0,
    }
