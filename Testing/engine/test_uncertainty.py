"""How sure the network is: entropies known by hand, the map on the CT's grid, lumps of doubt told from seams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.bundle import Bundle, load_bundle
from CovidSegLib.errors import ModelError
from CovidSegLib.geometry import Geometry
from CovidSegLib.pipeline import SegmentationResult, segment
from CovidSegLib.progress import Reporter
from CovidSegLib.restore import restore_map
from CovidSegLib.uncertainty import MOST_DOUBTFUL_SHARE, UncertainRegion, entropy, tempered, uncertain_regions
from helpers_model import threshold_tensors, write_bundle
from helpers_phantom import reordered, reordered_ct, small_phantom
from hypothesis import given
from hypothesis import strategies as st
from test_restore import DIRECTIONS, grid_of, network_input_for

# --- entropy and temperature ----------------------------------------------------------------------


def column(*probabilities: float) -> np.ndarray:
    return np.array(probabilities, dtype=np.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((1.0, 0.0, 0.0, 0.0), 0.0),
        ((0.25, 0.25, 0.25, 0.25), 1.0),
        ((0.0, 0.5, 0.0, 0.5), 0.5),
        ((0.5, 0.25, 0.25, 0.0), 0.75),  # 1.5 of 2 bits
    ],
)
def test_entropy_is_a_share_of_the_greatest(probabilities: tuple[float, ...], expected: float) -> None:
    assert entropy(column(*probabilities)).item() == pytest.approx(expected, abs=1e-6)


def test_temperature_two_takes_the_root_of_the_odds() -> None:
    assert tempered(column(0.8, 0.2), temperature=2.0).ravel() == pytest.approx([2 / 3, 1 / 3])
    assert tempered(column(0.75, 0.25), temperature=0.5).ravel() == pytest.approx([0.9, 0.1])


@given(
    st.lists(st.floats(0.0, 1.0, width=32), min_size=4, max_size=4).filter(lambda values: sum(values) > 0.01),
    st.floats(0.02, 50.0),
)
def test_temperature_keeps_order_and_sum_and_above_one_never_makes_surer(
    values: list[float], temperature: float
) -> None:
    before = column(*values) / np.float32(sum(values))
    after = tempered(before, temperature=temperature)
    assert after.sum() == pytest.approx(1.0, abs=1e-5)
    order = np.argsort(before.ravel(), kind="stable")
    assert (np.diff(after.ravel()[order]) >= 0).all()
    change = (entropy(after) - entropy(before)).item()
    assert change >= -1e-5 if temperature >= 1 else change <= 1e-5


def test_probabilities_are_not_modified() -> None:
    before = np.random.default_rng(0).dirichlet(np.ones(4), (3, 4, 5)).transpose(3, 0, 1, 2).astype(np.float32)
    kept = before.copy()
    assert entropy(before, temperature=1.7).shape == (3, 4, 5)
    assert np.array_equal(before, kept)


# --- the way back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["axes (0, 1, 2)", "axes (2, 0, 1)", "all flipped", "oblique 20"])
def test_map_is_interpolated_linearly_onto_the_cts_grid(name: str) -> None:
    geometry = grid_of(DIRECTIONS[name], size_ijk=(50, 46, 80), spacing=(1.1, 1.3, 1.2))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    k, j, i = np.meshgrid(*(axis.centers_mm for axis in found.axes), indexing="ij")
    restored = restore_map(
        ((0.1 + 0.004 * k + 0.002 * j + 0.001 * i).astype(np.float32)),
        network_input=found,
        geometry=geometry,
        reporter=Reporter(),
    )
    assert restored.shape == geometry.shape_kji and restored.dtype == np.uint8
    k, j, i = np.meshgrid(*(axis.centers_mm for axis in found.source_axes), indexing="ij")
    expected = 100 * (0.1 + 0.004 * k + 0.002 * j + 0.001 * i)
    inner = (slice(3, -3),) * 3
    assert np.abs(found.orientation.view(restored) - expected)[inner].max() <= 0.51


def test_map_is_nothing_outside_the_patient_and_the_networks_grid() -> None:
    geometry = grid_of(np.eye(3), size_ijk=(40, 40, 40), spacing=(2.0, 2.0, 2.0))
    found = network_input_for(geometry, steps_mm=(2.0, 2.0, 2.0), box=True)
    inside = found.inside_kji.copy()
    inside[:, :10] = False
    ones = np.ones(inside.shape, np.float32)
    full = restore_map(ones, network_input=found, geometry=geometry, reporter=Reporter())
    half = restore_map(ones, network_input=replace(found, inside_kji=inside), geometry=geometry, reporter=Reporter())
    assert full[20, 20, 20] == half[20, 30, 20] == 100
    assert not full[[0, -1]].any() and not full[:, :, [0, -1]].any()
    assert full[20, 10, 20] == 100 and half[20, 10, 20] == 0
    nothing = restore_map(0 * ones, network_input=found, geometry=geometry, reporter=Reporter())
    assert nothing.shape == geometry.shape_kji and not nothing.any()


# --- segment ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose network labels each voxel by its HU, unsure near its thresholds."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundles") / "threshold", tensors=threshold_tensors()))


def run(bundle: Bundle, **options: Any) -> SegmentationResult:
    return segment(small_phantom(3).ct, bundle=bundle, device="cpu", mode="fast", **options)


@pytest.fixture(scope="module")
def asked(bundle: Bundle) -> SegmentationResult:
    """The result of a phantom with its map."""
    return run(bundle, uncertainty=True)


def test_segment_maps_uncertainty_only_if_asked_and_labels_stay(bundle: Bundle, asked: SegmentationResult) -> None:
    without = run(bundle)
    assert asked.uncertainty is not None
    assert without.uncertainty is None
    assert np.array_equal(without.labelmap, asked.labelmap)
    assert asked.uncertainty.shape == asked.labelmap.shape and asked.uncertainty.dtype == np.uint8
    assert asked.uncertainty.max() <= 100
    # In lung and in tissue the threshold network has hardly a doubt; between them it has.
    for settled in (asked.labelmap == 1, asked.labelmap == 0):
        assert np.median(asked.uncertainty[settled]) <= 2
    assert asked.uncertainty.max() > 30
    assert without.report().keys() == asked.report().keys()


def test_uncertainty_follows_the_storage_of_the_ct(bundle: Bundle, asked: SegmentationResult) -> None:
    order, flips = (2, 0, 1), (True, False, True)
    stored = reordered_ct(small_phantom(3).ct, order=order, flips=flips)
    other = segment(stored, bundle=bundle, device="cpu", mode="fast", uncertainty=True).uncertainty
    assert other is not None and asked.uncertainty is not None
    expected = reordered(asked.uncertainty, order=order, flips=flips)
    assert np.abs(other.astype(int) - expected).max() <= 1


def test_temperature_of_the_bundle_changes_the_map_and_no_label(bundle: Bundle, asked: SegmentationResult) -> None:
    softened = run(replace(bundle, temperature=3.0), uncertainty=True)
    assert softened.uncertainty is not None and asked.uncertainty is not None
    assert np.array_equal(asked.labelmap, softened.labelmap)
    assert (softened.uncertainty.astype(int) >= asked.uncertainty.astype(int) - 1).all()
    assert softened.uncertainty.mean() > 1.5 * asked.uncertainty.mean()


def test_bundle_names_its_temperature_or_has_none(tmp_path: Path) -> None:
    assert load_bundle(write_bundle(tmp_path / "plain")).temperature == 1.0
    for name, temperature in (("warm", 1.5), ("cold", 0.05)):
        bundle = load_bundle(write_bundle(tmp_path / name, calibration={"temperature": temperature}))
        assert bundle.temperature == temperature


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0}, {"temperature": "2"}, {"temperature": True}, [1.5], {"temperature": float("inf")}]
)
def test_impossible_temperature_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"metadata.json: calibration must name a temperature above 0"):
        load_bundle(write_bundle(tmp_path / "bundle", calibration=wrong))


# --- regions ----------------------------------------------------------------------------------------

GEOMETRY = Geometry(size_ijk=(60, 50, 40), spacing_ijk_mm=(2.0, 2.0, 2.0))


def chest(geometry: Geometry = GEOMETRY) -> tuple[np.ndarray, np.ndarray]:
    """Return a sure map and a labelmap with one lung, k 8..31, j 10..39, i 15..44."""
    labels = np.zeros(geometry.shape_kji, np.uint8)
    labels[8:32, 10:40, 15:45] = 1
    return np.zeros(geometry.shape_kji, np.uint8), labels


def regions(doubt: np.ndarray, labels: np.ndarray, **options: Any) -> list[UncertainRegion]:
    return uncertain_regions(doubt, labelmap_kji=labels, geometry=GEOMETRY, **options)


def test_lumps_come_with_place_size_and_doubt_the_weightiest_first() -> None:
    doubt, labels = chest()
    doubt[14:17, 20:23, 30:33] = 50
    doubt[20:25, 30:35, 20:25] = 40
    first, second = regions(doubt, labels)
    # On this grid the ball is a voxel and its six neighbours: the opening takes edges and corners off a cube.
    assert (first.center_ijk, first.mean_percent) == ((22, 32, 22), 40.0)
    assert first.volume_ml == pytest.approx((125 - 44) * 0.008)
    assert (second.center_ijk, second.mean_percent) == ((31, 21, 15), 50.0)
    assert second.volume_ml == pytest.approx(7 * 0.008)
    assert first.weight > second.weight
    assert regions(doubt, labels, most=1) == [first]


@pytest.mark.parametrize(("percent", "count"), [(24, 0), (25, 1)])
def test_doubt_begins_at_25_percent(percent: int, count: int) -> None:
    doubt, labels = chest()
    doubt[20:25, 30:35, 20:25] = percent
    assert len(regions(doubt, labels)) == count


def test_seams_inside_the_lungs_are_no_regions() -> None:
    doubt, labels = chest()
    doubt[8:32, 25:27, 15:45] = 60  # a seam of two voxels across the whole lung
    assert regions(doubt, labels) == []
    doubt[18:23, 24:29, 28:33] = 60  # where it swells to a lump
    (lump,) = regions(doubt, labels)
    assert lump.volume_ml < 1.5 < 24 * 2 * 30 * 0.008
    assert lump.center_ijk[2] in range(18, 23) and lump.center_ijk[0] in range(28, 33)


def test_doubt_along_the_outer_border_is_no_region() -> None:
    doubt, labels = chest()
    doubt[labels > 0] = 70
    doubt[10:30, 12:38, 17:43] = 0  # leaves two voxels inside the border all around
    doubt[6:8, 8:42, 13:47] = 70  # and two outside of it, below
    assert regions(doubt, labels) == []


def test_doubt_next_to_the_lungs_counts_and_far_from_them_does_not() -> None:
    doubt, labels = chest()
    doubt[18:22, 20:24, 6:11] = 50  # 8 to 18 mm from the lung
    doubt[18:22, 20:24, 53:58] = 50  # from 16 mm on
    (near,) = regions(doubt, labels)
    assert near.center_ijk[0] in range(7, 11)


def test_a_map_lifted_as_a_whole_gives_its_most_doubtful_places_only() -> None:
    doubt, labels = chest()
    doubt += 35
    doubt[20:25, 30:35, 20:25] = 60
    assert (doubt[labels > 0] > 35).mean() < MOST_DOUBTFUL_SHARE
    doubt[8:32, 10:40, 15:45][::2, ::2, ::2] += 1  # no two voxels of the haze are alike
    assert regions(doubt, labels)[0].center_ijk == (22, 32, 22)


def test_fine_grids_give_the_same_regions_as_coarse_ones() -> None:
    doubt, labels = chest()
    doubt[20:26, 30:36, 20:26] = 40
    fine = Geometry(size_ijk=(120, 100, 80), spacing_ijk_mm=(1.0, 1.0, 1.0))
    (expected,) = regions(doubt, labels)
    doubt, labels = (array.repeat(2, 0).repeat(2, 1).repeat(2, 2) for array in (doubt, labels))
    (found,) = uncertain_regions(doubt, labelmap_kji=labels, geometry=fine)
    assert found.volume_ml == pytest.approx(expected.volume_ml)
    assert np.abs(np.array(found.center_ijk) - 2 * np.array(expected.center_ijk)).max() <= 2


def test_nothing_sure_or_no_lung_gives_no_region() -> None:
    doubt, labels = chest()
    assert regions(doubt, labels) == []
    assert regions(doubt + 50, 0 * labels) == []


def test_map_and_labelmap_must_have_the_grids_shape() -> None:
    doubt, labels = chest()
    with pytest.raises(ValueError, match=r"uncertainty \(39, 50, 60\) and labelmap \(40, 50, 60\)"):
        regions(doubt[1:], labels)
