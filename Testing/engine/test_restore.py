"""Labels back on the CT's own grid: exact on equal grids, volumes kept, geometry of any direction."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from CovidSegLib.anatomy.chest import Chest
from CovidSegLib.errors import Cancelled
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.orient import Orientation
from CovidSegLib.preprocess import NetworkInput
from CovidSegLib.progress import Progress, Reporter
from CovidSegLib.resample import Axes, covering_axis, image_axes, resample_kji
from CovidSegLib.restore import restore_labels

RADIUS_MM = 40.0


def oblique(degrees: float) -> np.ndarray:
    a, b = np.deg2rad(degrees), np.deg2rad(-degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def grid_of(direction: np.ndarray, *, size_ijk: tuple[int, int, int], spacing: tuple[float, float, float]) -> Geometry:
    return Geometry(size_ijk, spacing, (11.0, -7.0, 30.0), tuple(direction.ravel()))


def network_input_for(
    geometry: Geometry, *, steps_mm: tuple[float, float, float] | None, box: bool = False
) -> NetworkInput:
    """Return the way back for a CT grid; `steps_mm` None takes the CT's own (oriented) grid."""
    orientation = Orientation.of(geometry)
    shape = orientation.view(np.empty(geometry.shape_kji, np.uint8)).shape
    source = image_axes(shape, spacing_kji_mm=orientation.spacing_mm(geometry))
    axes = source if steps_mm is None else tuple(covering_axis(a, s) for a, s in zip(source, steps_mm, strict=True))
    if box:
        axes = tuple(a.part(a.count // 6, a.count - a.count // 6) for a in axes)
    image = np.zeros(tuple(a.count for a in axes), np.float32)
    inside = np.ones(image.shape, bool)
    ends = tuple((float(a.centers_mm[0]), float(a.centers_mm[-1])) for a in axes)
    chest = Chest(axes, inside, None, None, ends, 0.0, False, False)  # type: ignore[arg-type]
    return NetworkInput(image, axes, source, orientation, inside, chest, (-1250.0, 250.0))  # type: ignore[arg-type]


def signed_distance_mm(grid: Axes, center_mm: np.ndarray) -> np.ndarray:
    k, j, i = np.meshgrid(*(axis.centers_mm for axis in grid), indexing="ij")
    return np.sqrt((k - center_mm[0]) ** 2 + (j - center_mm[1]) ** 2 + (i - center_mm[2]) ** 2) - RADIUS_MM


def ball_labels(found: NetworkInput, *, label: Label = Label.LEFT_LUNG) -> tuple[np.ndarray, np.ndarray]:
    """Return a ball in the middle of the oriented CT, as labels on the network's grid and as mask on the CT's."""
    center_mm = np.array([a.first_mm + (a.count - 1) * a.step_mm / 2 for a in found.source_axes])
    labels = np.where(signed_distance_mm(found.axes, center_mm) < 0, np.uint8(label), np.uint8(0))
    return labels, signed_distance_mm(found.source_axes, center_mm) < 0


def restored(labels: np.ndarray, found: NetworkInput, geometry: Geometry) -> np.ndarray:
    return restore_labels(labels, network_input=found, geometry=geometry, reporter=Reporter())


DIRECTIONS = {
    **{f"axes {order}": np.eye(3)[:, list(order)] for order in permutations(range(3))},
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "all flipped": -np.eye(3),
    "oblique 20": oblique(20.0),
    "oblique 44": oblique(44.0),
    "oblique and flipped": oblique(30.0) @ np.diag([1.0, -1.0, -1.0]),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_ball_keeps_place_and_volume_whatever_the_direction(name: str) -> None:
    geometry = grid_of(DIRECTIONS[name], size_ijk=(70, 60, 45), spacing=(1.7, 1.9, 2.5))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    labels, ball = ball_labels(found)
    labelmap = restored(labels, found, geometry)
    assert labelmap.shape == geometry.shape_kji and labelmap.dtype == np.uint8
    seen = found.orientation.view(labelmap)
    volume_ml = np.count_nonzero(labelmap) * geometry.voxel_volume_ml
    assert volume_ml == pytest.approx(4 / 3 * np.pi * (RADIUS_MM / 10) ** 3, rel=0.02)
    assert np.count_nonzero((seen == Label.LEFT_LUNG) ^ ball) < 0.03 * np.count_nonzero(ball)
    # The centre of mass is the middle of the grid, in patient space.
    center = geometry.ijk_to_lps @ [*np.argwhere(labelmap).mean(axis=0)[::-1], 1.0]
    middle = geometry.ijk_to_lps @ [*((np.array(geometry.size_ijk) - 1) / 2), 1.0]
    assert center == pytest.approx(middle, abs=0.3)


@pytest.mark.parametrize("spacing", [(0.8, 0.9, 8.0), (3.5, 3.2, 0.9), (1.0, 4.0, 2.0)], ids=str)
def test_ball_keeps_its_volume_on_anisotropic_grids(spacing: tuple[float, float, float]) -> None:
    size = tuple(int(100 / s) for s in spacing)
    geometry = grid_of(np.eye(3), size_ijk=size, spacing=spacing)  # type: ignore[arg-type]
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    labelmap = restored(ball_labels(found)[0], found, geometry)
    volume_ml = np.count_nonzero(labelmap) * geometry.voxel_volume_ml
    assert volume_ml == pytest.approx(4 / 3 * np.pi * (RADIUS_MM / 10) ** 3, rel=0.04)


@pytest.mark.parametrize("name", ["axes (0, 1, 2)", "axes (2, 0, 1)", "all flipped", "oblique 20"])
def test_equal_grids_give_the_labels_back_exactly(name: str) -> None:
    geometry = grid_of(DIRECTIONS[name], size_ijk=(13, 11, 9), spacing=(1.0, 2.0, 3.0))
    found = network_input_for(geometry, steps_mm=None)
    labels = np.random.default_rng(0).integers(0, 4, found.image_kji.shape).astype(np.uint8)
    labelmap = restored(labels, found, geometry)
    assert np.array_equal(found.orientation.view(labelmap), labels)


@pytest.mark.parametrize("step_k_mm", [0.8, 2.0, 6.0], ids=str)
def test_each_label_is_interpolated_by_itself_and_the_largest_share_wins(step_k_mm: float) -> None:
    geometry = grid_of(np.eye(3), size_ijk=(21, 19, 12), spacing=(1.1, 0.9, step_k_mm))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    labels = np.random.default_rng(1).integers(0, 4, found.image_kji.shape).astype(np.uint8)
    shares = [resample_kji(labels == label, source=found.axes, target=found.source_axes) for label in Label]
    assert np.array_equal(restored(labels, found, geometry), np.argmax(shares, axis=0))


def test_outside_the_networks_box_is_background() -> None:
    geometry = grid_of(np.eye(3), size_ijk=(60, 60, 48), spacing=(2.0, 2.0, 2.5))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58), box=True)
    labels, ball = ball_labels(found)
    assert np.count_nonzero((restored(labels, found, geometry) > 0) ^ ball) < 0.03 * np.count_nonzero(ball)
    full = np.full_like(labels, Label.INFECTION)
    labelmap = restored(full, found, geometry)
    for axis, grid in enumerate(found.axes):
        centers_mm = found.source_axes[axis].centers_mm
        margin_mm = 1.5 * grid.step_mm + found.source_axes[axis].step_mm
        used = np.flatnonzero((labelmap > 0).any(axis=tuple(n for n in range(3) if n != axis)))
        assert centers_mm[used[0]] >= grid.centers_mm[0] - margin_mm
        assert centers_mm[used[-1]] <= grid.centers_mm[-1] + margin_mm


def test_lungs_at_the_border_of_the_image_reach_its_last_voxel() -> None:
    geometry = grid_of(np.eye(3), size_ijk=(30, 30, 20), spacing=(1.1, 1.1, 2.0))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    labels = np.full(found.image_kji.shape, Label.RIGHT_LUNG, np.uint8)
    assert (restored(labels, found, geometry) == Label.RIGHT_LUNG).all()


def test_no_lung_gives_an_empty_labelmap() -> None:
    geometry = grid_of(np.eye(3), size_ijk=(9, 8, 7), spacing=(1.0, 1.0, 1.0))
    found = network_input_for(geometry, steps_mm=None)
    labels = np.zeros(found.image_kji.shape, np.uint8)
    assert not restored(labels, found, geometry).any()


def test_labels_are_not_modified_and_progress_is_told() -> None:
    geometry = grid_of(np.eye(3), size_ijk=(40, 40, 90), spacing=(2.5, 2.5, 1.1))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    labels, _ = ball_labels(found)
    before, seen = labels.copy(), list[Progress]()
    restore_labels(labels, network_input=found, geometry=geometry, reporter=Reporter(progress=seen.append))
    assert np.array_equal(labels, before)
    assert {step.stage for step in seen} == {"back"}
    assert [step.done for step in seen] == sorted(step.done for step in seen) and len(seen) >= 2


def test_cancel_stops_the_way_back() -> None:
    geometry = grid_of(np.eye(3), size_ijk=(40, 40, 90), spacing=(2.5, 2.5, 1.1))
    found = network_input_for(geometry, steps_mm=(2.7, 1.58, 1.58))
    with pytest.raises(Cancelled):
        restore_labels(
            ball_labels(found)[0],
            network_input=found,
            geometry=geometry,
            reporter=Reporter(cancelled=lambda: True),
        )
