"""What the figures of a benchmark should reach, and whether they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..scores import Sides, mean

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A figure that should reach a bound.

    Attributes:
        text: What is measured.
        value: Picks the figure from what `run_benchmark` returned; gives None if it was not measured.
        first: Bound for the first weights; None: they have none.
        final: Bound for the best weights; None: they have no further one.
        at_least: Whether the bound is a lower one (larger is better) or an upper one.
        unit: Printed after the figures.
    """

    text: str
    value: Callable[[Figures], float | None]
    first: float | None = None
    final: float | None = None
    at_least: bool = True
    unit: str = ""


def _mean_score(figures: Figures, *, group: str, region: str) -> float | None:
    rows = [row for row in figures["cases"] if row["group"] == group]
    if not rows:
        return None
    # A case that failed counts as one in which nothing was found.
    return mean([0.0 if row["error"] else row["scores"][region]["dice"] for row in rows])


def _poi_of_case(figures: Figures, *, name: str) -> float | None:
    row = next((row for row in figures["cases"] if row["name"] == name), None)
    if row is None:
        return None
    return math.inf if row["error"] or row["poi_percent"] is None else float(row["poi_percent"])


def _kernels(figures: Figures, pick: Callable[[Figures], float | None]) -> float | None:
    return None if figures["kernels"] is None else pick(figures["kernels"])


def _worst(figures: Figures, *, kinds: tuple[str, ...], pick: Callable[[Figures], float]) -> float | None:
    """Return the largest value over the variants of some kinds; a failed run is infinitely bad."""
    rows = [row for row in figures["variants"] if row["kind"] in kinds]
    return max((math.inf if row["error"] else pick(row) for row in rows), default=None)


def _poi_move(row: Figures) -> float:
    return math.inf if row["poi_change"] is None else abs(row["poi_change"])


def _robustness_lungs(figures: Figures) -> float | None:
    worst = _worst(figures, kinds=("robustness",), pick=lambda row: 1.0 - row["dice"]["lungs"])
    return None if worst is None else 1.0 - worst


def _side_mistakes(figures: Figures) -> float | None:
    rows = [row for row in [*figures["cases"], *figures["variants"]] if not row["error"]]
    return float(sum(has_mixed_sides(row) for row in rows)) if rows else None


def has_mixed_sides(row: Figures) -> bool:
    """Tell whether a run mixes up left and right, judged by itself or against the run on the untouched CT."""
    return bool(row["sides_mistaken"] or row.get("other_side_share", 0.0) > Sides.STRAY_FROM)


AIMS: tuple[Aim, ...] = (
    Aim(
        text="lungs, Dice against the lung masks, mean",
        value=lambda f: _mean_score(f, group="lungs", region="lungs"),
        first=0.96,
        final=0.975,
    ),
    Aim(
        text="kept-out cases, lungs, agreement, mean",
        value=lambda f: _mean_score(f, group="kept-out", region="lungs"),
        first=0.95,
        final=0.97,
    ),
    Aim(
        text="kept-out cases, infection, agreement, mean",
        value=lambda f: _mean_score(f, group="kept-out", region="infection"),
        first=0.65,
        final=0.78,
    ),
    Aim(
        text="normal001, POI",
        value=lambda f: _poi_of_case(f, name="normal001"),
        first=0.5,
        final=0.2,
        at_least=False,
        unit=" %",
    ),
    Aim(
        text="two kernels of one scan, lungs Dice",
        value=lambda f: _kernels(f, lambda k: k["dice"]["lungs"]),
        first=0.98,
    ),
    Aim(
        text="two kernels of one scan, POI difference",
        value=lambda f: _kernels(f, _poi_move),
        first=1.5,
        at_least=False,
        unit=" points",
    ),
    Aim(text="left-right mistakes, all runs", value=_side_mistakes, first=0.0, final=0.0, at_least=False),
    Aim(
        text="stored flipped or axis-swapped, largest change of POI",
        value=lambda f: _worst(f, kinds=("storage",), pick=_poi_move),
        first=0.2,
        at_least=False,
        unit=" points",
    ),
    Aim(
        text="robustness runs, largest change of POI",
        value=lambda f: _worst(f, kinds=("robustness",), pick=_poi_move),
        final=2.0,
        at_least=False,
        unit=" points",
    ),
    Aim(text="robustness runs, lowest lungs Dice", value=_robustness_lungs, final=0.96),
)


def judge_aims(figures: Figures) -> list[dict[str, Any]]:
    """Return every aim with its figure, and whether it is met (None: not measured, or no such bound)."""
    judged = []
    for aim in AIMS:
        value = aim.value(figures)
        row: dict[str, Any] = {"aim": aim.text, "value": value, "unit": aim.unit, "at_least": aim.at_least}
        for which in ("first", "final"):
            bound = getattr(aim, which)
            row[which] = bound
            row[f"{which}_met"] = (
                None if value is None or bound is None else value >= bound if aim.at_least else value <= bound
            )
        judged.append(row)
    return judged
