"""Volume nodes as the engine's input: exact voxels and grid, and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, add_volume, hu_of, labels_on, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")

from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.readers.memory import needed_bytes  # noqa: E402
from CovidSegLib.scenes.volume import (  # noqa: E402
    HU_SCALE_ATTRIBUTE,
    from_hu,
    remember_hu_scale,
    volume_from_node,
)

pytestmark = pytest.mark.slicer


def ramp(shape_kji: tuple[int, ...] = (9, 10, 11), *, dtype: Any = np.int16) -> np.ndarray:
    return (np.arange(np.prod(shape_kji)).reshape(shape_kji) % 997 - 800).astype(dtype)


@pytest.mark.parametrize("grid", GRIDS)
def test_array_and_geometry_are_those_of_the_node(context: Any, grid: str) -> None:
    hu_kji = ramp()
    node = add_volume(context, hu_kji=hu_kji, matrix=GRIDS[grid])
    ct = volume_from_node(node)
    np.testing.assert_array_equal(ct.hu_kji, hu_kji)
    assert ct.hu_kji.dtype == np.int16
    assert ct.geometry.size_ijk == (11, 10, 9)
    np.testing.assert_allclose(ct.geometry.ijk_to_ras, GRIDS[grid], atol=1e-9)
    assert (ct.name, ct.warnings) == ("CT", ())


def test_volume_of_a_derived_class_is_read_like_any_scalar_volume(context: Any) -> None:
    stored = add_volume(context, hu_kji=ramp(), matrix=np.eye(4))
    node = context.add_node("vtkMRMLStreamingVolumeNode", name="CT")
    node.SetAndObserveImageData(stored.GetImageData())
    np.testing.assert_array_equal(volume_from_node(node).hu_kji, ramp())


def test_voxels_are_copied(context: Any) -> None:
    node = add_volume(context, hu_kji=ramp(), matrix=GRIDS["oblique"])
    first = volume_from_node(node).hu_kji
    first[:] = 7
    np.testing.assert_array_equal(volume_from_node(node).hu_kji, ramp())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float32, np.float64])
def test_whole_numbers_of_any_type_become_int16(context: Any, dtype: Any) -> None:
    hu_kji = np.clip(ramp(dtype=np.float64), *((-100, 100) if dtype == np.int8 else (-900, 900)))
    hu_kji = np.abs(hu_kji) % 255 if dtype == np.uint8 else hu_kji
    ct = volume_from_node(add_volume(context, hu_kji=hu_kji.astype(dtype), matrix=GRIDS["oblique"]))
    assert ct.hu_kji.dtype == np.int16
    np.testing.assert_array_equal(ct.hu_kji, hu_kji)


def test_fractions_are_kept_as_float32(context: Any) -> None:
    hu_kji = ramp(dtype=np.float32) + np.float32(0.25)
    ct = volume_from_node(add_volume(context, hu_kji=hu_kji, matrix=GRIDS["oblique"]))
    assert ct.hu_kji.dtype == np.float32
    np.testing.assert_array_equal(ct.hu_kji, hu_kji)


def test_fingerprint_depends_on_voxels_and_grid_and_on_nothing_else(context: Any) -> None:
    hu_kji = ramp()
    node = add_volume(context, hu_kji=hu_kji, matrix=GRIDS["oblique"])
    again = add_volume(context, hu_kji=hu_kji, matrix=GRIDS["oblique"])
    again.SetName("another name")
    fingerprint = volume_from_node(node).fingerprint
    assert fingerprint.startswith("sha256:")
    assert volume_from_node(again).fingerprint == fingerprint
    again.SetIJKToRASMatrix(vtk_matrix(GRIDS["axial_lps"]))
    assert volume_from_node(again).fingerprint != fingerprint
    hu_kji[4, 4, 4] += 1
    changed = add_volume(context, hu_kji=hu_kji, matrix=GRIDS["oblique"])
    assert volume_from_node(changed).fingerprint != fingerprint


def test_sheared_grid_is_described_by_the_nearest_right_angled_one(context: Any) -> None:
    matrix = GRIDS["axial_lps"].copy()
    matrix[1, 2] = 0.4
    ct = volume_from_node(add_volume(context, hu_kji=ramp(), matrix=matrix))
    direction = ct.geometry.direction_matrix
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    assert ct.geometry.spacing_ijk_mm == pytest.approx(np.linalg.norm(matrix[:3, :3], axis=0))
    assert "right angles" in ct.warnings[0]


def test_thick_slices_are_told(context: Any) -> None:
    matrix = GRIDS["axial_lps"].copy()
    matrix[:3, 2] *= 8.0 / 3.0
    (warning,) = volume_from_node(add_volume(context, hu_kji=ramp(), matrix=matrix)).warnings
    assert "8.0 mm" in warning


def test_no_volume_is_refused() -> None:
    with pytest.raises(InputError, match="No CT volume is chosen"):
        volume_from_node(None)


def test_other_node_is_refused(context: Any) -> None:
    with pytest.raises(InputError, match="No CT volume is chosen"):
        volume_from_node(context.add_node("vtkMRMLTableNode", name="table"))


def test_volume_without_image_data_is_refused_by_name(context: Any) -> None:
    with pytest.raises(InputError, match="'empty' has no image data"):
        volume_from_node(context.add_node("vtkMRMLScalarVolumeNode", name="empty"))


def test_labelmap_volume_is_refused(context: Any) -> None:
    labels_kji = labels_on(GRIDS["oblique"])
    node = add_volume(context, hu_kji=labels_kji, matrix=GRIDS["oblique"], class_name="vtkMRMLLabelMapVolumeNode")
    with pytest.raises(InputError, match="'CT' is a labelmap, not a CT"):
        volume_from_node(node)


def test_labelmap_in_a_scalar_volume_is_refused(context: Any) -> None:
    node = add_volume(context, hu_kji=labels_on(GRIDS["oblique"]), matrix=GRIDS["oblique"])
    with pytest.raises(InputError, match="looks like a labelmap"):
        volume_from_node(node)


@pytest.mark.parametrize("class_name", ["vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"])
def test_colour_image_is_refused(context: Any, class_name: str) -> None:
    node = add_volume(
        context, hu_kji=np.zeros((9, 9, 9, 3), dtype=np.uint8), matrix=GRIDS["oblique"], class_name=class_name
    )
    with pytest.raises(InputError, match="3 values per voxel"):
        volume_from_node(node)


def test_too_few_slices_are_refused(context: Any) -> None:
    with pytest.raises(InputError, match="only 5 slices"):
        volume_from_node(add_volume(context, hu_kji=ramp((5, 20, 20)), matrix=GRIDS["oblique"]))


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_volume_too_large_for_memory_is_refused_before_it_is_copied(
    context: Any, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    node = add_volume(context, hu_kji=ramp(dtype=dtype), matrix=GRIDS["oblique"])
    needed = needed_bytes((11, 10, 9), dtype=np.dtype(dtype))
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: needed)
    assert volume_from_node(node).hu_kji.shape == (9, 10, 11)
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: needed - 1)
    monkeypatch.setattr("CovidSegLib.scenes.volume.copy_array", lambda _node: pytest.fail("copied"))
    with pytest.raises(InputError, match=r"^Volume 'CT': the volume \(11 x 10 x 9 voxels\) needs about 0\.5 GiB"):
        volume_from_node(node)


def test_constant_volume_is_refused(context: Any) -> None:
    with pytest.raises(InputError, match="every voxel is 0"):
        volume_from_node(add_volume(context, hu_kji=np.zeros((9, 9, 9), np.int16), matrix=GRIDS["oblique"]))


def test_nan_is_refused_with_the_slice(context: Any) -> None:
    hu_kji = ramp(dtype=np.float32)
    hu_kji[3, 2, 1] = np.nan
    with pytest.raises(InputError, match="slice 4 are NaN"):
        volume_from_node(add_volume(context, hu_kji=hu_kji, matrix=GRIDS["oblique"]))


def test_spacing_of_zero_is_refused(context: Any) -> None:
    matrix = GRIDS["axial_lps"].copy()
    matrix[:3, 2] = 0.0
    node = add_volume(context, hu_kji=hu_of(labels_on(GRIDS["axial_lps"])), matrix=matrix)
    with pytest.raises(InputError, match=r"spacing of|lie in one plane"):
        volume_from_node(node)


def test_absurd_spacing_is_refused(context: Any) -> None:
    matrix = GRIDS["axial_lps"].copy()
    matrix[:3, 2] *= 100
    with pytest.raises(InputError, match="not plausible"):
        volume_from_node(add_volume(context, hu_kji=ramp(), matrix=matrix))


def add_stored(context: Any, *, hu_kji: np.ndarray, factor: float, offset: float) -> Any:
    """Return a volume node whose voxels become these HU by `value * factor + offset`."""
    values_kji = np.rint((hu_kji - offset) / factor).astype(np.int16)
    node = add_volume(context, hu_kji=values_kji, matrix=GRIDS["oblique"])
    remember_hu_scale(node, hu_kji=hu_kji)
    return node


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (1.0, -1024.0), (1500.0 / 255.0, -1250.0), (0.8, 120.0)])
def test_values_of_a_volume_that_is_not_in_hu_are_known_for_any_hu(context: Any, factor: float, offset: float) -> None:
    node = add_stored(context, hu_kji=ramp(), factor=factor, offset=offset)
    assert (node.GetAttribute(HU_SCALE_ATTRIBUTE) is None) == (factor == 1.0 and offset == 0.0)
    for hu in (-1350.0, -300.0, 150.0):
        assert from_hu(node, hu=hu) == pytest.approx((hu - offset) / factor, abs=2.0)


def test_scale_is_forgotten_when_the_volume_holds_hu_again(context: Any) -> None:
    node = add_stored(context, hu_kji=ramp(), factor=1.0, offset=-1024.0)
    slicer.util.arrayFromVolume(node)[:] = ramp()
    remember_hu_scale(node, hu_kji=ramp())
    assert from_hu(node, hu=-600.0) == -600.0


def test_padding_plays_no_part_in_the_scale(context: Any) -> None:
    hu_kji = ramp()
    values_kji = hu_kji + 1024
    hu_kji[0], values_kji[0] = -1024, -2000
    node = add_volume(context, hu_kji=values_kji, matrix=GRIDS["oblique"])
    remember_hu_scale(node, hu_kji=hu_kji)
    assert from_hu(node, hu=-600.0) == pytest.approx(424.0, abs=0.1)


@pytest.mark.parametrize("text", ["", "1", "0 5", "a b"])
def test_damaged_scale_of_a_saved_scene_counts_as_none(context: Any, text: str) -> None:
    node = add_volume(context, hu_kji=ramp(), matrix=GRIDS["oblique"])
    node.SetAttribute(HU_SCALE_ATTRIBUTE, text)
    assert from_hu(node, hu=-600.0) == -600.0
