"""`covidseg-train explore`: facts of cases whose content is known, and what it makes of bad ones."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from helpers_training import run_command, write_nifti

from CovidSegTraining.experiment.explore import COLUMNS, explore, explore_case, rows, to_table

SHAPE_KJI = (10, 20, 40)
GEOMETRY = Geometry(size_ijk=(40, 20, 10), spacing_ijk_mm=(1.0, 2.0, 5.0))
"""Voxels of 0.01 ml."""


def _labels() -> np.ndarray:
    """Return 8000 voxels: 100 of left lung, 200 of right lung, 50 of infection."""
    labels = np.zeros(SHAPE_KJI, dtype=np.uint8)
    labels[4].flat[:100] = Label.LEFT_LUNG
    labels[5].flat[:200] = Label.RIGHT_LUNG
    labels[6].flat[:50] = Label.INFECTION
    return labels


def _hu() -> np.ndarray:
    hu = np.random.default_rng(0).integers(-900, 101, SHAPE_KJI).astype(np.int16)
    hu.flat[:2] = -900, 100
    return hu


def _write_case(
    folder: Path,
    *,
    hu: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    geometry: Geometry = GEOMETRY,
) -> Path:
    write_nifti(folder / "imaging.nii.gz", _hu() if hu is None else hu, geometry=geometry)
    if labels is not None:
        write_nifti(folder / "segmentation.nii.gz", labels, geometry=geometry)
    if valid is not None:
        write_nifti(folder / "valid.nii.gz", valid, geometry=geometry)
    return folder


def test_facts_of_a_case_are_counted(tmp_path: Path) -> None:
    facts = explore_case(_write_case(tmp_path / "case_a", labels=_labels()))
    assert (facts.case, facts.size_ijk, facts.values, facts.note) == ("case_a", (40, 20, 10), "HU", "")
    assert facts.spacing_ijk_mm == pytest.approx((1.0, 2.0, 5.0))
    assert (facts.lowest, facts.highest, facts.valid_share) == (-900.0, 100.0, 1.0)
    assert facts.mean == pytest.approx(_hu().mean())
    assert facts.voxels == (7650, 100, 200, 50)
    assert [facts.percent(label) for label in Label] == [95.625, 1.25, 2.5, 0.625]
    # Infection lies in the lungs: 350 voxels of 0.01 ml.
    assert (facts.lung_ml, facts.infection_ml) == (pytest.approx(3.5), pytest.approx(0.5))


def test_voxels_that_are_not_valid_do_not_count(tmp_path: Path) -> None:
    hu, valid = _hu(), np.zeros(SHAPE_KJI, dtype=np.uint8)
    valid[5:7] = 1
    hu[valid == 0] = -3000
    hu[5, 0, 0], hu[6, 0, 0] = -1000, 200
    facts = explore_case(_write_case(tmp_path / "case", hu=hu, labels=_labels(), valid=valid))
    assert (facts.lowest, facts.highest, facts.valid_share) == (-1000.0, 200.0, 0.2)
    assert facts.voxels == (1600 - 250, 0, 200, 50)
    assert facts.lung_ml == pytest.approx(2.5)
    assert facts.note == "no left lung"


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), "LPS"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "RAS"),
        ((1, 0, 0, 0, -1, 0, 0, 0, 1), "LAS"),
        ((0, 0, 1, 1, 0, 0, 0, 1, 0), "PSL"),
    ],
)
def test_orientation_says_where_the_axes_run_to(tmp_path: Path, direction: tuple[float, ...], letters: str) -> None:
    geometry = Geometry((40, 20, 10), (1.0, 2.0, 5.0), direction_lps=tuple(map(float, direction)))
    assert explore_case(_write_case(tmp_path / "case", geometry=geometry)).orientation == letters


def test_kind_of_values_is_told(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, SHAPE_KJI).astype(np.int16)
    assert explore_case(_write_case(tmp_path / "grey", hu=grey)).values == "grey"
    assert explore_case(_write_case(tmp_path / "offset", hu=_hu() + np.int16(1024))).values == "offset"


def test_grey_is_seen_although_unknown_voxels_are_filled(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, SHAPE_KJI).astype(np.int16)
    grey[0] = -1024
    valid = np.ones(SHAPE_KJI, dtype=np.uint8)
    valid[0] = 0
    assert explore_case(_write_case(tmp_path / "case", hu=grey, valid=valid)).values == "grey"


def test_case_without_segmentation_is_listed_with_a_note(tmp_path: Path) -> None:
    _write_case(tmp_path / "a", labels=_labels())
    _write_case(tmp_path / "b")
    (tmp_path / "archives").mkdir()
    (tmp_path / "notes.txt").write_text("not a case")
    found = explore(tmp_path)
    assert found.errors == ()
    assert [(facts.case, facts.note) for facts in found.cases] == [("a", ""), ("b", "no segmentation.nii.gz")]
    row = rows(found.cases)[1]
    assert [row[column] for column in ("background_percent", "lung_ml", "infection_ml")] == ["", "", ""]
    summary = to_table(found.cases).splitlines()[-1]
    assert summary.startswith("2 cases; median 40x20x10 voxels of 1.00x2.00x5.00 mm; over the voxels of 1 with")
    assert "background 95.6 %, left lung 1.2 %, right lung 2.5 %, infection 0.6 %" in summary


def test_damaged_cases_are_named_and_the_others_done(tmp_path: Path) -> None:
    _write_case(tmp_path / "good", labels=_labels())
    _write_case(tmp_path / "ct")
    (tmp_path / "ct" / "imaging.nii.gz").write_bytes(b"damaged")
    _write_case(tmp_path / "labels")
    (tmp_path / "labels" / "segmentation.nii.gz").write_bytes(b"damaged")
    _write_case(tmp_path / "seven", labels=np.where(_labels() == 2, 7, _labels()).astype(np.uint8))
    _write_case(tmp_path / "nothing", labels=_labels(), valid=np.zeros(SHAPE_KJI, dtype=np.uint8))
    shifted = Geometry((40, 20, 10), (1.0, 2.0, 5.0), origin_lps_mm=(0.0, 0.0, 30.0))
    write_nifti(_write_case(tmp_path / "shifted") / "segmentation.nii.gz", _labels(), geometry=shifted)
    found = explore(tmp_path)
    assert [facts.case for facts in found.cases] == ["good"]
    for error, (file, message) in zip(
        found.errors,
        [
            ("ct/imaging.nii.gz", ""),
            ("labels/segmentation.nii.gz", "it is damaged, cut short, or not an image"),
            ("nothing/valid.nii.gz", "no voxel is marked as known"),
            ("seven/segmentation.nii.gz", "label 7 found; known are 0 to 3"),
            ("shifted/segmentation.nii.gz", "differs from the CT's"),
        ],
        strict=True,
    ):
        assert file.split("/")[0] in error and message in error


def test_labels_without_a_ct_are_named(tmp_path: Path) -> None:
    _write_case(tmp_path / "a", labels=_labels())
    _write_case(tmp_path / "b", labels=_labels())
    (tmp_path / "b" / "imaging.nii.gz").rename(tmp_path / "b" / "image.nii.gz")
    (tmp_path / "c").mkdir()  # no case at all
    found = explore(tmp_path)
    assert [facts.case for facts in found.cases] == ["a"]
    assert found.errors == (f"{tmp_path / 'b'}: no imaging.nii.gz; add it, or take the case out of the folder",)


def test_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no cases; expected <case>/imaging\.nii\.gz"):
        explore(tmp_path)


def test_command_prints_the_table_and_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_case(tmp_path / "data" / "a", labels=_labels())
    _write_case(tmp_path / "data" / "b")
    assert run_command("explore", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["case", "voxels", "spacing"] and len(table) == 4
    assert "95.6/1.2/2.5/0.6" in table[1] and table[1].split()[-2:] == ["3.5", "0.5"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["explore.csv", "explore.png"]
    with (tmp_path / "out" / "explore.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert tuple(written[0]) == COLUMNS
    assert (written[0]["lung_ml"], written[0]["left_lung_percent"]) == ("3.5", "1.25")
    assert (tmp_path / "out" / "explore.png").read_bytes().startswith(b"\x89PNG")


def test_command_names_damaged_cases_and_fails_in_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_case(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "imaging.nii.gz").write_bytes(b"damaged")
    assert run_command("explore", "--data", str(tmp_path)) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("a ")
    errors = [line for line in captured.err.splitlines() if "error" in line]
    assert len(errors) == 1 and str(tmp_path / "b") in errors[0]
    shutil.rmtree(tmp_path / "a")
    assert run_command("explore", "--data", str(tmp_path), "-o", str(tmp_path / "out")) == 1
    assert "no case could be read" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["coronacases_001", "radiopaedia_27_86410_0"])
def test_facts_of_real_cases_are_those_that_came_with_them(data_dir: Path, case: str) -> None:
    facts = explore_case(data_dir / "muller20" / case)
    known = json.loads((data_dir / "muller20" / "cases.json").read_text())[case]
    assert facts.size_ijk == tuple(known["shape"])
    assert facts.spacing_ijk_mm == pytest.approx(known["spacing"], abs=1e-4)
    assert facts.voxels == tuple(known["voxels"][str(int(label))] for label in Label)
    assert facts.values == "HU"
    if case.startswith("radiopaedia"):
        assert facts.lowest >= -1250 and facts.highest == 250
