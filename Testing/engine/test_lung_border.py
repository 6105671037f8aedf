"""The lungs end where the CT shows it, on any grid; what is inside them, infection, and the image's border stay."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.anatomy.lung_border import DEPTH_MM, SLAB, trim_lung_border
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.phantom import make_phantom
from CovidSegLib.volume import CTVolume
from helpers_phantom import dice, reordered, reordered_ct
from scipy import ndimage

LUNG_HU, TISSUE_HU = -850, 50


def grid(*, size_ijk: tuple[int, int, int] = (40, 36, 30), spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Geometry:
    return Geometry(size_ijk=size_ijk, spacing_ijk_mm=spacing)  # type: ignore[arg-type]


def box_of_lung(geometry: Geometry, *, margin: int = 8) -> np.ndarray:
    """Return (k, j, i) bool: a box, so many voxels from the border of the image."""
    lung = np.zeros(geometry.shape_kji, dtype=bool)
    lung[margin:-margin, margin:-margin, margin:-margin] = True
    return lung


def ct_of(lung: np.ndarray) -> np.ndarray:
    return np.where(lung, LUNG_HU, TISSUE_HU).astype(np.int16)


def trimmed(labels: np.ndarray, hu: np.ndarray, geometry: Geometry) -> np.ndarray:
    out = labels.copy()
    trim_lung_border(out, hu_kji=hu, geometry=geometry)
    return out


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.75, 0.75, 1.5), (1.4, 1.4, 3.0)], ids=str)
def test_lung_that_reaches_into_tissue_ends_at_the_tissue(spacing: tuple[float, ...]) -> None:
    geometry = grid(spacing=spacing)
    lung = box_of_lung(geometry)
    # As far as one may: in voxels along k, j, i.
    depth = [round(DEPTH_MM / s) for s in spacing[::-1]]
    labels = lung.copy()
    for axis, n in enumerate(depth):
        labels |= ndimage.binary_dilation(
            lung, structure=np.ones([3 if a == axis else 1 for a in range(3)]), iterations=n
        )
    found = trimmed(labels * np.uint8(Label.LEFT_LUNG), ct_of(lung), geometry)
    np.testing.assert_array_equal(found == Label.LEFT_LUNG, lung)


@pytest.mark.parametrize(("wall_hu", "is_trimmed"), [(-325, True), (-326, False)])
def test_wall_is_dense_from_325_hu_below_zero(wall_hu: int, *, is_trimmed: bool) -> None:
    geometry = grid(size_ijk=(16, 16, 16))
    lung, labels = box_of_lung(geometry, margin=5), box_of_lung(geometry, margin=4) * np.uint8(Label.LEFT_LUNG)
    hu = np.where(lung, LUNG_HU, wall_hu).astype(np.int16)
    np.testing.assert_array_equal(trimmed(labels, hu, geometry) > 0, lung if is_trimmed else labels > 0)


def test_no_more_than_the_depth_is_taken_of_dense_lung() -> None:
    geometry = grid()
    labels = box_of_lung(geometry) * np.uint8(Label.RIGHT_LUNG)
    dense = np.full(geometry.shape_kji, TISSUE_HU, dtype=np.int16)
    found = trimmed(labels, dense, geometry)
    row = found[geometry.shape_kji[0] // 2, geometry.shape_kji[1] // 2]
    assert np.flatnonzero(row)[0] == 8 + round(DEPTH_MM)


def test_infection_at_the_wall_and_vessels_inside_stay() -> None:
    geometry = grid()
    lung = box_of_lung(geometry)
    labels = lung * np.uint8(Label.LEFT_LUNG)
    labels[8:22, 8:14, 8:32][lung[8:22, 8:14, 8:32]] = Label.INFECTION
    hu = ct_of(lung)
    hu[8:22, 8:14, 8:32] = TISSUE_HU
    hu[10:20, 18:21, 14:26] = TISSUE_HU
    found = trimmed(labels, hu, geometry)
    # But for its edges, where two walls meet.
    np.testing.assert_array_equal(found[11:19, 8:14, 11:29], labels[11:19, 8:14, 11:29])
    np.testing.assert_array_equal(found[:, 14:], labels[:, 14:])


def test_thin_dense_layer_over_ground_glass_is_the_wall() -> None:
    geometry = grid()
    lung = box_of_lung(geometry)
    labels = lung * np.uint8(Label.INFECTION)
    hu = np.where(lung, -550, TISSUE_HU).astype(np.int16)
    inner = box_of_lung(geometry, margin=10)
    hu[lung & ~inner] = TISSUE_HU
    np.testing.assert_array_equal(trimmed(labels, hu, geometry) == Label.INFECTION, inner)


def test_border_of_the_image_is_no_border_of_the_lungs() -> None:
    geometry = grid()
    labels = np.full(geometry.shape_kji, Label.LEFT_LUNG, dtype=np.uint8)
    np.testing.assert_array_equal(trimmed(labels, np.full(labels.shape, TISSUE_HU, np.int16), geometry), labels)


def test_tissue_in_the_next_slice_counts_only_if_it_is_near() -> None:
    for slice_mm, is_trimmed in ((3.0, True), (8.0, False)):
        geometry = grid(size_ijk=(20, 20, 6), spacing=(1.0, 1.0, slice_mm))
        labels = np.zeros(geometry.shape_kji, dtype=np.uint8)
        labels[1:] = Label.LEFT_LUNG
        hu = np.full(labels.shape, LUNG_HU, dtype=np.int16)
        hu[:2] = TISSUE_HU
        found = trimmed(labels, hu, geometry)
        assert bool((found[1] == 0).all()) is is_trimmed
        assert (found[2:] == Label.LEFT_LUNG).all()


def test_slabs_leave_no_seam() -> None:
    geometry = grid(size_ijk=(24, 24, 3 * SLAB + 5))
    labels = np.zeros(geometry.shape_kji, dtype=np.uint8)
    labels[2:-2, 2:-2, 2:-2] = Label.LEFT_LUNG
    rng = np.random.default_rng(1)
    labels[rng.random(labels.shape) < 0.01] = 0
    labels[:, 12:][labels[:, 12:] > 0] = Label.INFECTION
    hu = np.where(rng.random(labels.shape) < 0.5, TISSUE_HU, LUNG_HU).astype(np.int16)
    whole = trimmed(labels, hu, geometry)
    for cut in (SLAB // 2, SLAB + 7):
        # Another start of the slabs; six slices from the cut, nothing depends on what was cut away.
        part = trimmed(labels[cut:], hu[cut:], grid(size_ijk=(24, 24, len(labels) - cut)))
        np.testing.assert_array_equal(part[7:], whole[cut + 7 :])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_result_does_not_depend_on_how_the_axes_are_stored(order: tuple[int, int, int]) -> None:
    geometry = grid(spacing=(0.9, 1.1, 2.0))
    rng = np.random.default_rng(2)
    labels = box_of_lung(geometry) * np.uint8(Label.LEFT_LUNG)
    hu = np.where(rng.random(labels.shape) < 0.6, TISSUE_HU, LUNG_HU).astype(np.int16)
    flips = (True, False, True)
    stored = reordered_ct(CTVolume(hu, geometry, "case", ""), order=order, flips=flips)
    found = trimmed(reordered(labels, order=order, flips=flips).copy(), stored.hu_kji, stored.geometry)
    np.testing.assert_array_equal(found, reordered(trimmed(labels, hu, geometry), order=order, flips=flips))


def test_lungs_of_a_phantom_that_were_drawn_too_large_come_back() -> None:
    phantom = make_phantom(seed=4, size_ijk=(192, 160, 100), spacing_ijk_mm=(1.9, 1.9, 3.0), infection_percent=0.0)
    lung = phantom.labelmap_kji > 0
    large = ndimage.binary_dilation(lung, structure=np.ones((1, 3, 3)))
    found = trimmed(large * np.uint8(Label.LEFT_LUNG), phantom.ct.hu_kji, phantom.ct.geometry)
    assert dice(large, lung) < 0.96
    assert dice(found > 0, lung) > 0.985


def test_empty_labelmap_stays_empty() -> None:
    geometry = grid()
    empty = np.zeros(geometry.shape_kji, dtype=np.uint8)
    assert not trimmed(empty, np.full(empty.shape, TISSUE_HU, np.int16), geometry).any()
