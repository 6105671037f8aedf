"""Prepared cases are read back as they were written, and packed ones are as good for training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from helpers_training import ball_case

from CovidSegTraining.cache import PACKED_HU, pack_cases, read_case, write_case
from CovidSegTraining.cli import main
from CovidSegTraining.patches import load_cases


def test_packed_case_keeps_codes_and_weight_and_hu_to_five(tmp_path: Path) -> None:
    case = replace(ball_case(seed=0), weight=0.4, key="k", labelled_by="sha")
    case.hu_kji[0, 0, :2] = (-2000, 1500)
    (tmp_path / "cache").mkdir()
    write_case(tmp_path / "cache" / "ball.npz", replace(case, partial_kji=case.codes_kji))
    assert main(["pack", "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "packed")]) == 0

    packed = read_case(tmp_path / "packed" / "ball.npz")
    assert np.abs(packed.hu_kji - np.clip(case.hu_kji, *PACKED_HU)).max() == 5
    assert np.array_equal(packed.codes_kji, case.codes_kji)
    assert (packed.weight, packed.key, packed.labelled_by, packed.partial_kji) == (0.4, "k", "sha", None)
    assert [c.name for c in load_cases(tmp_path / "packed")] == ["ball"]


def test_packed_case_is_a_fraction_of_the_size(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    write_case(tmp_path / "cache" / "ball.npz", ball_case(seed=0))
    pack_cases(tmp_path / "cache", tmp_path / "packed")
    sizes = [(tmp_path / folder / "ball.npz").stat().st_size for folder in ("cache", "packed")]
    assert sizes[1] < 0.5 * sizes[0]


def test_nothing_to_pack_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'covidseg-train prepare' first"):
        pack_cases(tmp_path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_case_of_an_experiment_is_not_called_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 2, 2)), labels=np.zeros((2, 2, 2)), recipe=np.array("x"))
    with pytest.raises(InputError, match=r"a.npz: not prepared by a recipe of the product .*; give the --config"):
        read_case(tmp_path / "a.npz")
