"""Labels are loosened as far as their record against radiologists goes, where a network doubts them most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

from CovidSegTraining.case_scores import read_scores
from CovidSegTraining.label_codes import Code
from CovidSegTraining.label_records import (
    OPEN_FROM,
    SURE_FROM,
    LabelRecord,
    loosen_infection,
    read_label_records,
)

#: Ten voxels of each lung, ten of infection (five beside each), ten of background.
CODES = np.repeat(
    [Code.RIGHT_LUNG, Code.INFECTION, Code.INFECTION, Code.LEFT_LUNG, Code.BACKGROUND], (10, 5, 5, 10, 10)
).astype(np.uint8)[None, None]
PERFECT = LabelRecord(sensitivity=1.0, precision=1.0)


def _loosened(record: LabelRecord, infection: np.ndarray) -> np.ndarray:
    return loosen_infection(CODES, infection_kji=infection.reshape(CODES.shape), record=record)[0, 0]


def test_shares_follow_from_sensitivity_and_precision() -> None:
    # 100 ml labelled, 80 of them rightly, of 160 that there are: 80 missed, 20 false.
    record = LabelRecord(sensitivity=0.5, precision=0.8)
    assert record.missed_share == pytest.approx(0.8)
    assert record.false_share == pytest.approx(0.2)
    assert record.volume_ratio == pytest.approx(1.6)


def test_as_much_lung_as_the_labels_miss_is_opened_where_infection_is_likeliest() -> None:
    infection = np.zeros(40)
    infection[:10] = np.linspace(0.02, 0.15, 10)  # right lung, rising towards the infection
    changed = _loosened(
        LabelRecord(sensitivity=0.5, precision=0.8), np.where(CODES[0, 0] == Code.INFECTION, 1, infection)
    )
    assert (changed[2:10] == Code.RIGHT_OR_INFECTION).all()  # 8 of 10 labelled voxels are missed
    np.testing.assert_array_equal(np.delete(changed, slice(2, 10)), np.delete(CODES[0, 0], slice(2, 10)))


def test_missed_infection_is_taught_where_the_network_sees_it() -> None:
    infection = np.full(40, 0.9)
    infection[:20] = 0.0
    infection[20:30] = [0.9, 0.8, 0.7, 0.15, 0.1, *[0.0] * 5]
    changed = _loosened(LabelRecord(sensitivity=2 / 3, precision=1.0), infection)
    assert list(changed[20:25]) == [Code.INFECTION] * 3 + [Code.LEFT_OR_INFECTION] * 2
    assert (changed[25:30] == Code.LEFT_LUNG).all()
    assert (changed[30:] == Code.BACKGROUND).all()  # never infection, whatever the network says


def test_false_infection_is_opened_where_it_is_least_likely_on_its_side() -> None:
    infection = np.zeros(40)
    infection[10:20] = [0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.1]
    changed = _loosened(LabelRecord(sensitivity=1.0, precision=0.7), infection)
    assert changed[10] == Code.RIGHT_OR_INFECTION
    assert list(changed[18:20]) == [Code.LEFT_OR_INFECTION] * 2
    assert (changed[11:18] == Code.INFECTION).all()


def test_sure_infection_stays_and_lung_that_holds_none_too() -> None:
    infection = np.where(CODES[0, 0] == Code.INFECTION, SURE_FROM, OPEN_FROM)
    np.testing.assert_array_equal(_loosened(LabelRecord(sensitivity=0.5, precision=0.5), infection), CODES[0, 0])


@given(
    sensitivity=st.floats(0.01, 1.0),
    precision=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
def test_no_more_is_loosened_than_the_record_says(sensitivity: float, precision: float, seed: int) -> None:
    record = LabelRecord(sensitivity, precision)
    changed = _loosened(record, np.random.default_rng(seed).random(40))
    before = CODES[0, 0]
    lung, labelled = (before == Code.LEFT_LUNG) | (before == Code.RIGHT_LUNG), before == Code.INFECTION
    assert (changed != before)[lung].sum() <= round(10 * min(record.missed_share, 1.0))
    assert (changed != before)[labelled].sum() <= round(10 * record.false_share)
    assert (changed == before)[before == Code.BACKGROUND].all()


def test_labels_that_are_right_and_cases_without_infection_stay() -> None:
    infection = np.random.default_rng(0).random(40)
    np.testing.assert_array_equal(_loosened(PERFECT, infection), CODES[0, 0])
    healthy = np.where(CODES == Code.INFECTION, np.uint8(Code.LEFT_LUNG), CODES)
    record = LabelRecord(sensitivity=0.5, precision=0.5)
    np.testing.assert_array_equal(
        loosen_infection(healthy, infection_kji=infection.reshape(CODES.shape), record=record), healthy
    )


@pytest.mark.realdata
def test_records_of_the_paper_are_read(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "muller20" / "paper" / "cv_results.detailed.csv"
    records = read_label_records(path)
    assert len(records) == 20
    assert records["coronacases_001"].sensitivity == pytest.approx(0.477, abs=0.001)
    assert records["coronacases_001"].volume_ratio == pytest.approx(1.936, abs=0.001)
    # DSC = 2 Sens Prec / (Sens + Prec) ties them to the third score of the same file.
    for scores in read_scores(path):
        record = records[scores.case]
        dice = 2 * record.sensitivity * record.precision / (record.sensitivity + record.precision)
        assert dice == pytest.approx(scores.values["DSC"]["infection"], abs=1e-6)


def test_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.csv: cannot be read"):
        read_label_records(tmp_path / "missing.csv")
