"""A correction by hand, saved over a result: what computes the case again never replaces it unasked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from CovidSegLib.cases.correction import is_corrected
from CovidSegLib.cli import main
from CovidSegLib.geometry import Geometry
from CovidSegLib.results.segmentation_reader import read_segmentation
from CovidSegLib.segmentation_file import write_labelmap_nifti, write_seg_nrrd
from fake_engine import write_ct
from helpers_cli import one_line_errors, segment, summary
from helpers_segmentation import GEOMETRIES, SIZE_IJK, L, R, any_geometry, make_labelmap

pytestmark = pytest.mark.usefixtures("fake_engine")
#: One axis leans by 0.8 %, as reading allows.
SHEARED = Geometry(SIZE_IJK, (0.7, 1.3, 2.9), direction_lps=(1.0, 0.0, 0.008, 0.0, 1.0, 0.0, 0.0, 0.0, 0.999968))


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _save_over(
    folder: Path,
    change: Callable[[np.ndarray], None],
    *,
    without: str = "-",
    added: Mapping[str, str] = MappingProxyType({}),
    shift_mm: float = 0.0,
    stretch: float = 1.0,
) -> None:
    """Change the layers (k, j, i, 2) of a case's segmentation: whole lungs, and infection."""
    import SimpleITK

    path = str(folder / "segmentation.seg.nrrd")
    image = SimpleITK.ReadImage(path)
    layers = SimpleITK.GetArrayFromImage(image)
    change(layers)
    changed = SimpleITK.GetImageFromArray(layers, isVector=True)
    changed.CopyInformation(image)
    changed.SetOrigin([mm + shift_mm for mm in image.GetOrigin()])
    changed.SetSpacing([mm * stretch for mm in image.GetSpacing()])
    for key in image.GetMetaDataKeys():
        if not key.startswith(without):
            changed.SetMetaData(key, image.GetMetaData(key))
    for key, value in added.items():
        changed.SetMetaData(key, value)
    SimpleITK.WriteImage(changed, path, useCompression=True)


def _nothing(_layers: np.ndarray) -> None: ...


def _erase_infection(layers: np.ndarray) -> None:
    layers[..., 1] = 0


def _paint_infection_beside_the_lungs(layers: np.ndarray) -> None:
    layers[0, 0, 0, 1] = 3


def _paint_left_lung(layers: np.ndarray) -> None:
    layers[0, 5, 5, 0] = 1


def _paint_right_lung(layers: np.ndarray) -> None:
    layers[0, 5, 5, 0] = 2


def _give_infection_to_the_other_lung(layers: np.ndarray) -> None:
    infected = np.argwhere((layers[..., 1] == 3) & (layers[..., 0] == 1))[0]
    layers[(*infected, 0)] = 2


CHANGES = [
    *(_erase_infection, _paint_infection_beside_the_lungs, _paint_left_lung, _paint_right_lung),
    _give_infection_to_the_other_lung,
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two results without previews, a and b."""
    for seed, name in enumerate("ab"):
        write_ct(tmp_path / "in" / f"{name}.nii.gz", seed=seed)
    assert segment(tmp_path / "in", "-o", tmp_path / "out", "--no-preview") == 0
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--no-preview", "--mode", "fast"], "option mode has changed from accurate to fast"),
        (["--no-preview", "--uncertainty"], "uncertainty.nii.gz is missing"),
        (["--no-preview", "--bundle", "other"], "the model has changed"),
        ([], "preview.png is missing"),
    ],
)
def test_corrected_case_fails_untouched_where_it_would_be_computed_again(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    _save_over(out / "b", _erase_infection)
    before = _content(out / "b")
    capsys.readouterr()
    assert segment(tmp_path / "in", "-o", out, *options) == 1
    assert _content(out / "b") == before
    assert {path.name for path in out.iterdir()} == {"a", "b", "summary.csv", "run.json"}
    assert [(row["case"], row["status"]) for row in summary(out)] == [("a", "done"), ("b", "failed")]
    printed = capsys.readouterr()
    assert f"a: computing again: {reason}" in printed.out and "b: computing again" not in printed.out
    (error,) = printed.err.splitlines()
    assert f"'segmentation.seg.nrrd' was corrected by hand, and would be replaced ({reason}): move" in error
    assert f"move the folder '{out / 'b'}' away, choose another output folder (-o OUT), or replace the" in error
    assert segment(tmp_path / "in", "-o", out, *options, "--overwrite") == 0
    assert not is_corrected(out / "b")


def test_complete_case_with_figures_from_before_its_correction_says_how_to_renew_them(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _save_over(out / "a", _nothing)
    _save_over(out / "b", _erase_infection)
    capsys.readouterr()
    assert segment(tmp_path / "in", "-o", out, "--no-preview") == 0
    rows = {row["case"]: row for row in summary(out)}
    assert {row["status"] for row in rows.values()} == {"skipped"}
    path = out / "b" / "segmentation.seg.nrrd"
    what = f"corrected after these figures were made: renew them with covidseg quantify CT '{path}' -o '{path.parent}'"
    assert what in rows["b"]["message"] and what in capsys.readouterr().out
    assert "corrected" not in rows["a"]["message"] and float(rows["b"]["poi_percent"]) > 0.0

    assert main(["quantify", str(tmp_path / "in" / "b.nii.gz"), str(path), "-o", str(path.parent)]) == 0
    assert segment(tmp_path / "in", "-o", out, "--no-preview") == 0
    renewed = {row["case"]: row for row in summary(out)}["b"]
    assert "renew them" not in renewed["message"]
    assert (renewed["status"], float(renewed["poi_percent"])) == ("skipped", 0.0)


@pytest.mark.parametrize("change", CHANGES)
def test_correction_of_any_segment_counts(tmp_path: Path, out: Path, change: Callable[[np.ndarray], None]) -> None:
    _save_over(out / "b", change)
    assert segment(tmp_path / "in", "-o", out) == 1
    assert [row["status"] for row in summary(out)] == ["done", "failed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"without": "Segment2_"},
        {"added": {"Segment3_ID": "effusion", "Segment3_Layer": "1", "Segment3_LabelValue": "9"}},
        {"shift_mm": 0.5},
        {"stretch": 1.1},
    ],
)
def test_segmentation_with_other_segments_or_on_other_voxels_counts_as_corrected(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    _save_over(out / "b", _nothing, **changes)  # type: ignore[arg-type]
    assert segment(tmp_path / "in", "-o", out) == 1
    assert "was corrected by hand" in one_line_errors(capsys)[0]


def test_corrected_case_fails_in_a_worker_too(tmp_path: Path, out: Path) -> None:
    _save_over(out / "a", _erase_infection)
    assert segment(tmp_path / "in", "-o", out, "--workers", "2") == 1
    assert [row["status"] for row in summary(out)] == ["failed", "done"]


def test_corrected_case_that_is_complete_is_skipped(tmp_path: Path, out: Path) -> None:
    _save_over(out / "b", _erase_infection)
    assert segment(tmp_path / "in", "-o", out, "--no-preview") == 0
    assert [row["status"] for row in summary(out)] == ["skipped", "skipped"]


def test_what_was_saved_over_without_a_change_is_computed_again(tmp_path: Path, out: Path) -> None:
    _save_over(out / "b", _nothing)
    assert segment(tmp_path / "in", "-o", out) == 0
    assert [row["status"] for row in summary(out)] == ["done", "done"]


def _lose(path: Path, *, damaged: bool) -> None:
    path.unlink()
    if damaged:
        path.write_bytes(b"no image")


@pytest.mark.parametrize("damaged", [False, True])
def test_case_whose_segmentation_is_missing_or_damaged_is_computed_again(
    tmp_path: Path, out: Path, *, damaged: bool
) -> None:
    _save_over(out / "b", _erase_infection)
    _lose(out / "b" / "segmentation.seg.nrrd", damaged=damaged)
    assert segment(tmp_path / "in", "-o", out) == 0
    assert [row["status"] for row in summary(out)] == ["done", "done"]


@pytest.mark.parametrize("damaged", [False, True])
def test_without_a_labelmap_a_case_is_kept_if_its_segmentation_was_saved_over(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], *, damaged: bool
) -> None:
    _save_over(out / "b", _erase_infection)
    for case in "ab":
        _lose(out / case / "labelmap.nii.gz", damaged=damaged)
    before = _content(out / "b")
    assert segment(tmp_path / "in", "-o", out) == 1
    assert [row["status"] for row in summary(out)] == ["done", "failed"]
    assert "was corrected by hand, and would be replaced" in one_line_errors(capsys)[0]
    assert _content(out / "b") == before


def _ties() -> Iterator[np.ndarray]:
    """Yield labelmaps full of infection that is equally far from both lungs."""
    for seed in range(20):
        labels = np.full(SIZE_IJK[::-1], 3, dtype=np.uint8)
        rng = np.random.default_rng(seed)
        for label in (L, R):
            labels[tuple(rng.integers(0, n, 3) for n in labels.shape)] = label
        yield labels


@any_geometry
def test_result_as_it_was_written_is_not_corrected(tmp_path: Path, geometry: Geometry) -> None:
    _assert_not_corrected(tmp_path, make_labelmap(), geometry=geometry)


def test_grid_that_the_labelmap_cannot_hold_exactly_makes_no_correction(tmp_path: Path) -> None:
    _assert_not_corrected(tmp_path, make_labelmap(), geometry=SHEARED)
    for labels in _ties():
        spacing_mm = (10.1, 30.3, 20.2)
        _assert_not_corrected(tmp_path, labels, geometry=replace(GEOMETRIES["oblique"], spacing_ijk_mm=spacing_mm))


def _assert_not_corrected(folder: Path, labelmap_kji: np.ndarray, *, geometry: Geometry) -> None:
    write_labelmap_nifti(folder / "labelmap.nii.gz", labelmap_kji=labelmap_kji, geometry=geometry)
    write_seg_nrrd(folder / "segmentation.seg.nrrd", labelmap_kji=labelmap_kji, geometry=geometry)
    assert not is_corrected(folder)


def _in_slicer(path: Path) -> tuple[Any, Any]:
    """Return a segmentation read by Slicer, and what writes it back."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node, storage


@pytest.mark.slicer
@pytest.mark.parametrize("geometry", [GEOMETRIES["oblique"], SHEARED], ids=["oblique", "sheared"])
def test_only_what_slicer_changed_counts_not_that_it_saved_a_part_of_the_grid(
    tmp_path: Path, geometry: Geometry
) -> None:
    labels = make_labelmap()
    labels[8, 10, 13] = 0  # at the corner: nothing could be left out
    _assert_not_corrected(tmp_path, labels, geometry=geometry)
    path = tmp_path / "segmentation.seg.nrrd"
    node, storage = _in_slicer(path)
    storage.SetCropToMinimumExtent(1)
    assert storage.WriteData(node)
    assert read_segmentation(path).geometry.size_ijk != SIZE_IJK
    assert not is_corrected(tmp_path)
    node.GetSegmentation().RemoveSegment("infection")
    assert storage.WriteData(node)
    assert is_corrected(tmp_path)


@pytest.mark.slicer
def test_only_a_result_with_voxels_can_have_lost_them_in_slicer(tmp_path: Path) -> None:
    for name, labels, corrected in (
        ("nothing", np.zeros_like(make_labelmap()), False),
        ("all", make_labelmap(), True),
    ):
        folder = tmp_path / name
        folder.mkdir()
        _assert_not_corrected(folder, labels, geometry=GEOMETRIES["oblique"])
        node, storage = _in_slicer(folder / "segmentation.seg.nrrd")
        for segment_id in ("left_lung", "right_lung", "infection"):
            node.GetSegmentation().GetSegment(segment_id).GetRepresentation("Binary labelmap").Initialize()
        assert storage.WriteData(node)
        assert is_corrected(folder) is corrected


@pytest.mark.slicer
def test_without_a_labelmap_what_slicer_saved_counts_as_corrected(tmp_path: Path) -> None:
    _assert_not_corrected(tmp_path, make_labelmap(), geometry=GEOMETRIES["oblique"])
    (tmp_path / "labelmap.nii.gz").unlink()
    assert not is_corrected(tmp_path)
    node, storage = _in_slicer(tmp_path / "segmentation.seg.nrrd")
    assert storage.WriteData(node)
    assert is_corrected(tmp_path)
