"""Segmentations on another grid than the CT's: placed by voxels that coincide, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.readers.checks import check_geometry
from CovidSegLib.results.segment_masks import SegmentMasks
from CovidSegLib.results.segmentation_reader import read_segmentation
from CovidSegLib.segmentation_file import write_labelmap_nifti
from helpers_segmentation import (
    GEOMETRIES,
    INF,
    ORIGIN_MM,
    SIZE_IJK,
    SPACING_MM,
    L,
    R,
    any_geometry,
    assert_same_masks,
    make_labelmap,
    turned,
)


def part_of(masks: SegmentMasks, start_ijk: tuple[int, int, int], size_ijk: tuple[int, int, int]) -> SegmentMasks:
    """The masks on a part of their grid."""
    whole = masks.geometry
    origin = (whole.ijk_to_lps @ np.array([*start_ijk, 1.0]))[:3]
    geometry = Geometry(size_ijk, whole.spacing_ijk_mm, tuple(float(v) for v in origin), whole.direction_lps)
    box = tuple(slice(start, start + size) for start, size in zip(start_ijk[::-1], size_ijk[::-1], strict=True))
    return SegmentMasks(masks.left_kji[box], masks.right_kji[box], masks.infection_kji[box], geometry)


def masks_of(labelmap: np.ndarray, geometry: Geometry) -> SegmentMasks:
    return SegmentMasks(labelmap == L, labelmap == R, labelmap == INF, geometry)


@any_geometry
def test_cropped_grid_is_placed_back_exactly(geometry):
    labelmap = make_labelmap()
    labelmap[8, 10, 13] = 0
    whole = masks_of(labelmap, geometry)
    placed = part_of(whole, (1, 2, 2), (12, 8, 6)).placed_on(geometry)
    assert placed.geometry is geometry
    assert_same_masks(placed, whole)


@any_geometry
def test_grid_cut_at_its_far_ends_only_is_placed_back_exactly(geometry):
    labelmap = make_labelmap()
    labelmap[8, 10, 13] = 0
    whole = masks_of(labelmap, geometry)
    used = [int(n.max()) + 1 for n in np.nonzero(labelmap)][::-1]
    assert used != list(SIZE_IJK)
    assert_same_masks(part_of(whole, (0, 0, 0), tuple(used)).placed_on(geometry), whole)


@any_geometry
@pytest.mark.parametrize("axis_ijk", [0, 1, 2])
def test_grid_of_equal_size_two_voxels_aside_is_placed_there(geometry, axis_ijk):
    labelmap = np.zeros(geometry.shape_kji, dtype=np.uint8)
    labelmap[3:5, 4:6, 5:8], labelmap[3:5, 4:6, 8] = L, INF
    start = np.eye(4)[3] + 2 * np.eye(4)[axis_ijk]
    aside = tuple(float(v) for v in (geometry.ijk_to_lps @ start)[:3])
    other = Geometry(geometry.size_ijk, geometry.spacing_ijk_mm, aside, geometry.direction_lps)
    placed = masks_of(labelmap, other).placed_on(geometry)
    assert_same_masks(placed, masks_of(np.roll(labelmap, 2, axis=2 - axis_ijk), geometry))


@any_geometry
def test_larger_grid_is_cut_if_only_background_is_lost(geometry):
    labelmap = make_labelmap()
    labelmap[8, 10, 13] = 0
    whole = masks_of(labelmap, geometry)
    smaller = part_of(whole, (1, 2, 2), (12, 8, 6))
    assert_same_masks(whole.placed_on(smaller.geometry), smaller)


@pytest.mark.parametrize("shear", [0.001, 0.009])
def test_labelmap_file_of_a_ct_sheared_a_little_lies_on_the_cts_voxels(tmp_path, capfd, shear):
    geometry = Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM, (1.0, 0.0, shear, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    check_geometry(geometry, label="ct")  # as accepted on reading
    path = tmp_path / "labelmap.nii.gz"
    write_labelmap_nifti(path, labelmap_kji=make_labelmap(), geometry=geometry)
    placed = read_segmentation(path).placed_on(geometry)
    assert placed.geometry is geometry
    assert_same_masks(placed, masks_of(make_labelmap(), geometry))
    assert capfd.readouterr().err == ""  # ITK straightens axes as well, and says so


def test_segment_beyond_the_ct_is_refused():
    whole = masks_of(make_labelmap(), GEOMETRIES["oblique"])
    smaller = part_of(whole, (1, 2, 2), (12, 8, 6))
    with pytest.raises(InputError, match="extends beyond the CT"):
        whole.placed_on(smaller.geometry)


@pytest.mark.parametrize(
    "other",
    [
        Geometry(SIZE_IJK, SPACING_MM, (-11.5, 33.5, 401.75), turned((1, 1, 1))),
        Geometry(SIZE_IJK, (0.71, 1.3, 2.9), ORIGIN_MM, turned((1, 1, 1))),
        Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM, turned((1, -1, 1))),
        Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM),
    ],
    ids=["shifted by half a voxel", "other spacing", "flipped", "not turned"],
)
def test_grid_that_is_not_aligned_is_refused(other):
    with pytest.raises(InputError, match="does not lie on the CT's voxels"):
        masks_of(make_labelmap(), GEOMETRIES["oblique"]).placed_on(other)


@pytest.mark.parametrize(("share", "is_accepted"), [(0.04, True), (0.06, False)])
@any_geometry
def test_grid_a_twentieth_of_a_voxel_aside_is_the_same(geometry, share, is_accepted):
    whole = masks_of(make_labelmap(), geometry)
    aside = (geometry.ijk_to_lps @ np.array([share, 0.0, 0.0, 1.0]))[:3]  # along i, the shortest side of a voxel
    other = Geometry(SIZE_IJK, geometry.spacing_ijk_mm, tuple(float(v) for v in aside), geometry.direction_lps)
    if is_accepted:
        assert_same_masks(whole.placed_on(other), whole)
    else:
        with pytest.raises(InputError, match="does not lie on the CT's voxels"):
            whole.placed_on(other)


def test_rounded_header_is_accepted():
    rounded = Geometry(SIZE_IJK, (0.70001, 1.3, 2.9), (-11.1251, 33.5, 401.75), turned((1, 1, 1)))
    assert masks_of(make_labelmap(), rounded).placed_on(GEOMETRIES["oblique"]).geometry == GEOMETRIES["oblique"]
