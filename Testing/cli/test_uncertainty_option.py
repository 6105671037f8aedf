"""`covidseg segment --uncertainty`: one file more, known to resuming, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.cases.discovery import discover_cases
from fake_engine import GEOMETRY, write_ct
from helpers_cli import CASE_FILES, segment, summary, tree_without_times

pytestmark = pytest.mark.usefixtures("fake_engine")
UNCERTAINTY = "uncertainty.nii.gz"


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    return write_ct(tmp_path / "a.nii.gz")


def test_map_is_written_beside_the_others_which_stay_the_same(tmp_path: Path, ct: Path) -> None:
    import SimpleITK

    assert segment(ct, "-o", tmp_path / "with", "--uncertainty") == 0
    assert segment(ct, "-o", tmp_path / "without") == 0
    folder = tmp_path / "with" / "a"
    assert {path.name for path in folder.iterdir()} == CASE_FILES | {UNCERTAINTY}
    image = SimpleITK.ReadImage(str(folder / UNCERTAINTY))
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    assert np.allclose(image.GetOrigin(), GEOMETRY.origin_lps_mm)
    assert SimpleITK.GetArrayFromImage(image).ravel()[:103].tolist() == [*range(101), 0, 1]
    (folder / UNCERTAINTY).unlink()
    assert tree_without_times(folder) == tree_without_times(tmp_path / "without" / "a")


def test_case_without_map_is_computed_again_when_it_is_asked_for(
    tmp_path: Path, ct: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(ct, "-o", out) == 0
    assert segment(ct, "-o", out, "--uncertainty") == 0
    assert f"computing again: {UNCERTAINTY} is missing" in capsys.readouterr().out
    assert (summary(out)[0]["status"], (out / "a" / UNCERTAINTY).is_file()) == ("done", True)
    for options in (["--uncertainty"], []):  # complete either way, and the map stays
        assert segment(ct, "-o", out, *options) == 0
        assert (summary(out)[0]["status"], (out / "a" / UNCERTAINTY).is_file()) == ("skipped", True)


def test_folder_with_a_map_is_replaced_without_complaint(tmp_path: Path, ct: Path) -> None:
    assert segment(ct, "-o", tmp_path / "out", "--uncertainty") == 0
    for options in (["--mode", "fast"], ["--overwrite"]):
        assert segment(ct, "-o", tmp_path / "out", *options) == 0
        assert {path.name for path in (tmp_path / "out" / "a").iterdir()} == CASE_FILES
        assert segment(ct, "-o", tmp_path / "out", "--uncertainty") == 0


def test_map_of_an_earlier_run_is_no_case(tmp_path: Path, ct: Path) -> None:
    assert segment(ct, "-o", tmp_path / "earlier", "--uncertainty") == 0
    folder = tmp_path / "earlier" / "a"
    ct.rename(folder / "ct.nii.gz")
    found = discover_cases([folder], out_dir=tmp_path / "out")
    assert [case.path.name for case in found.cases] == ["ct.nii.gz"]
    # Without the labelmap beside it, it may be anything.
    (folder / "labelmap.nii.gz").unlink()
    found = discover_cases([folder], out_dir=tmp_path / "out")
    assert [case.path.name for case in found.cases] == ["ct.nii.gz", UNCERTAINTY]
