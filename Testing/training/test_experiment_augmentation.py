from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage

from CovidSegTraining.experiment.augmentation import (
    Draw,
    Volume,
    change_intensities,
    crop_batch,
    crop_volume,
    draw_crop,
    smoothing_matrix,
)
from CovidSegTraining.experiment.config import Augmentation, read_experiment
from CovidSegTraining.experiment.loss import UNKNOWN
from CovidSegTraining.experiment.sampling import sample_image, sample_labels

PAPER = read_experiment().augmentation
assert PAPER is not None
PLAIN = Draw(position_kji=(0.0, 0.0, 0.0), seed=7)
SHAPE = (20, 24, 28)


def _settings(**probabilities: float) -> Augmentation:
    """Return the paper's settings with all probabilities 0 but those given."""
    assert PAPER is not None
    changed = {
        name: replace(getattr(PAPER, name), probability=probabilities.get(name, 0.0))
        for name in ("contrast", "brightness", "gamma", "noise", "elastic", "rotation", "scale")
    }
    mirror = probabilities.get("mirror", 0.0)
    return replace(PAPER, mirror=replace(PAPER.mirror, probability_ijk=(mirror,) * 3), **changed)


def _volume(*, unknown: bool = False) -> Volume:
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(0, 5, SHAPE), 1.0).astype(np.float32)
    labels = rng.integers(0, 4, SHAPE).astype(np.uint8)
    if unknown:
        labels[:, :, 20:] = UNKNOWN
        image[:, :, 20:] = 0.0
    return Volume(torch.from_numpy(image), torch.from_numpy(labels), complete=not unknown)


def _changed(volume: Volume, **changes: float) -> torch.Tensor:
    return change_intensities(volume, draw=replace(PLAIN, **changes), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def draws() -> list[Draw]:
    rng = np.random.default_rng(0)
    return [draw_crop(PAPER, rng=rng) for _ in range(20_000)]


def _agrees_with_share(found: np.ndarray, share: float) -> bool:
    """Tell whether as many are true as a probability lets expect, within 4.5 standard deviations."""
    return bool(abs(found.mean() - share) < 4.5 * np.sqrt(share * (1 - share) / len(found)))


def _is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    """Tell whether values fill a range evenly: none beyond it, a tenth in each tenth."""
    inside = (values >= low).all() and (values <= high).all()
    tenths = np.histogram(values, bins=10, range=(low, high))[0] / len(values)
    return bool(inside and (np.abs(tenths - 0.1) < 4.5 * np.sqrt(0.09 / len(values))).all())


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [("contrast", (0.3, 1.0), (1.0, 3.0)), ("gamma", (0.7, 1.0), (1.0, 1.5)), ("scale", (0.85, 1.0), (1.0, 1.25))],
)
def test_two_sided_factors_are_as_in_the_papers_table(
    draws: list[Draw], name: str, below: tuple[float, float], above: tuple[float, float]
) -> None:
    values = np.array([getattr(draw, name) for draw in draws], dtype=float)
    assert _agrees_with_share(~np.isnan(values), 0.15)
    drawn = values[~np.isnan(values)]
    assert _agrees_with_share(drawn < 1.0, 0.5)
    assert _is_uniform(drawn[drawn < 1.0], *below) and _is_uniform(drawn[drawn >= 1.0], *above)


def test_other_draws_are_as_in_the_papers_table(draws: list[Draw]) -> None:
    flips = np.array([draw.flip_kji for draw in draws])
    for axis in range(3):
        assert _agrees_with_share(flips[:, axis], 0.5)
    # The axes are drawn by themselves: each of the eight combinations comes as often.
    for combination in product((False, True), repeat=3):
        assert _agrees_with_share((flips == combination).all(axis=1), 1 / 8)
    for name, low, high in (("brightness", 0.5, 2.0), ("noise_std", 0.0, 0.05)):
        values = np.array([getattr(draw, name) for draw in draws], dtype=float)
        assert _agrees_with_share(~np.isnan(values), 0.15)
        assert _is_uniform(values[~np.isnan(values)], low, high)
    for name, ranges in (("elastic", [(0, 900), (9, 13)]), ("angles_ijk", [(-np.pi / 12, np.pi / 12)] * 3)):
        chosen = [getattr(draw, name) for draw in draws]
        assert _agrees_with_share(np.array([values is not None for values in chosen]), 0.15)
        columns = np.array([values for values in chosen if values is not None]).T
        for column, (low, high) in zip(columns, ranges, strict=True):
            assert _is_uniform(column, low, high)
    for column in np.array([draw.position_kji for draw in draws]).T:
        assert _is_uniform(column, 0.0, 1.0)
    assert len({draw.seed for draw in draws}) == len(draws)


def test_changes_are_drawn_independently(draws: list[Draw]) -> None:
    names = ("contrast", "brightness", "gamma", "noise_std", "elastic", "angles_ijk", "scale")
    happened = np.array([[getattr(draw, name) is not None for name in names] for draw in draws])
    for first, second in zip(*np.triu_indices(len(names), k=1), strict=True):
        assert _agrees_with_share(happened[:, first] & happened[:, second], 0.15**2)


@pytest.mark.parametrize("settings", [None, _settings()])
def test_without_changes_crops_are_cut_out_everywhere_alike(settings: Augmentation | None) -> None:
    volume, rng, size = _volume(), np.random.default_rng(1), (16, 16, 28)
    starts = np.zeros((4, 8, 1))
    for _ in range(2000):
        draw = draw_crop(settings, rng=rng)
        image, labels = crop_volume(volume, draw=draw, size_kji=size, settings=settings)
        k, j = (int(p * n) for p, n in zip(draw.position_kji[:2], (4, 8), strict=True))
        starts[k, j, 0] += 1
        assert torch.equal(image, volume.image[k : k + 16, j : j + 16])
        assert torch.equal(labels, volume.labels[k : k + 16, j : j + 16])
    assert (np.abs(starts - 2000 / 32) < 4.5 * np.sqrt(2000 / 32)).all()


def test_small_volume_is_centred_in_zeros() -> None:
    volume = _volume()
    image, labels = crop_volume(volume, draw=PLAIN, size_kji=(24, 31, 16), settings=None)
    assert image.shape == labels.shape == (24, 31, 16)
    assert torch.equal(image[2:22, 4:28], volume.image[:, :, :16])
    assert (image != 0).sum() == (volume.image[:, :, :16] != 0).sum()
    assert labels.long().sum() == volume.labels[:, :, :16].long().sum()


@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
@pytest.mark.parametrize("changes", [{}, {"angles_ijk": (0.2, -0.1, 0.15), "scale": 0.9}])
def test_mirrored_crop_is_the_crop_of_the_mirrored_volume(
    flips: tuple[bool, bool, bool], changes: dict[str, object]
) -> None:
    volume, size = _volume(), (16, 31, 16)
    axes = [axis for axis in range(3) if flips[axis]]
    mirrored = Volume(volume.image.flip(axes), volume.labels.flip(axes), complete=True)
    draw = replace(PLAIN, position_kji=(0.7, 0.1, 0.3), **changes)
    expected = crop_volume(mirrored, draw=draw, size_kji=size, settings=PAPER)
    found = crop_volume(volume, draw=replace(draw, flip_kji=flips), size_kji=size, settings=PAPER)
    torch.testing.assert_close(found[0], expected[0], atol=2e-3, rtol=0)
    assert (found[1] == expected[1]).float().mean() > 0.999  # rounding of positions half-way between two voxels


def test_sides_are_swapped_only_if_told_to() -> None:
    assert PAPER is not None
    labels = torch.tensor([0, 1, 2, 3, UNKNOWN, 1], dtype=torch.uint8).expand(4, 4, 6).contiguous()
    volume = Volume(torch.zeros(4, 4, 6), labels, complete=False)
    swapping = replace(PAPER, mirror=replace(PAPER.mirror, swaps_sides=True))
    for settings, flips, expected in (
        (PAPER, (False, False, True), [1, UNKNOWN, 3, 2, 1, 0]),
        (swapping, (False, False, True), [2, UNKNOWN, 3, 1, 2, 0]),
        (swapping, (True, True, False), [0, 1, 2, 3, UNKNOWN, 1]),
    ):
        draw = replace(PLAIN, flip_kji=flips)
        found = crop_volume(volume, draw=draw, size_kji=(4, 4, 6), settings=settings)[1]
        assert found[0, 0].tolist() == expected and found.dtype == torch.uint8


def test_interpolation_is_scipys() -> None:
    volume, rng = _volume(), np.random.default_rng(2)
    points = rng.uniform(-2, np.asarray(SHAPE) + 1, (4000, 3)).astype(np.float32)
    points[:3] = [[0, 0, 0], [19, 23, 27], [19, 23, 27.01]]
    at = torch.from_numpy(points).view(20, 10, 20, 3)
    for cubic, order in ((True, 3), (False, 1)):
        expected = ndimage.map_coordinates(volume.image.numpy(), points.T, order=order, mode="constant")
        np.testing.assert_allclose(sample_image(volume.image, at, cubic=cubic).flatten().numpy(), expected, atol=2e-4)
    expected = ndimage.map_coordinates(volume.labels.numpy(), points.T, order=0, mode="constant")
    np.testing.assert_array_equal(sample_labels(volume.labels, at).flatten().numpy(), expected)


def test_interpolation_of_a_single_slice_is_scipys() -> None:
    rng = np.random.default_rng(4)
    image, points = rng.normal(size=(1, 6, 7)).astype(np.float32), rng.uniform(-1, 8, (500, 3)).astype(np.float32)
    points[:400, 0] = 0.0
    at = torch.from_numpy(points).view(10, 5, 10, 3)
    for cubic, order in ((True, 3), (False, 1)):
        expected = ndimage.map_coordinates(image, points.T, order=order, mode="constant")
        assert expected.any()
        np.testing.assert_allclose(
            sample_image(torch.from_numpy(image), at, cubic=cubic).flatten().numpy(), expected, atol=2e-4
        )


def test_rotation_and_scale_are_the_librarys() -> None:
    """The library's formulas, in its order of axes (i, j, k), with SciPy's interpolation."""
    volume, size_ijk, angles, scale = _volume(), np.array([16, 12, 8]), (0.2, -0.15, 0.1), 1.2
    mesh = np.array(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size_ijk], indexing="ij"))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn, (a, b) = np.eye(3), [n for n in range(3) if n != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        # About j the library turns the other way round.
        turn[a, b], turn[b, a] = (np.sin(angle), -np.sin(angle)) if axis == 1 else (-np.sin(angle), np.sin(angle))
        matrix = matrix @ turn
    position = np.array([0.4, 0.6, 0.5])
    center = size_ijk // 2 + position * (np.array(SHAPE[::-1]) - 2 * (size_ijk // 2))
    points = (mesh.reshape(3, -1).T @ matrix * scale + center).T
    expected = ndimage.map_coordinates(volume.image.numpy().transpose(), points, order=3, mode="constant")
    draw = replace(PLAIN, angles_ijk=angles, scale=scale, position_kji=tuple(position[::-1]))
    found = crop_volume(volume, draw=draw, size_kji=(8, 12, 16), settings=PAPER)[0]
    np.testing.assert_allclose(found.numpy(), expected.reshape(size_ijk).transpose(), atol=5e-4)


def test_deformation_is_smoothed_noise() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (40, 50))
    matrices = [smoothing_matrix(n, sigma=9.5) for n in noise.shape]
    expected = ndimage.gaussian_filter(noise, 9.5, mode="constant")
    np.testing.assert_allclose(matrices[0] @ noise @ matrices[1], expected, atol=1e-6)


def test_deformation_moves_voxels_by_alpha_times_the_noise() -> None:
    # In an image that is its own position along i, the value found is where the voxel came from.
    ramp = torch.arange(64.0).expand(64, 64, 64).contiguous()
    volume = Volume(ramp, torch.zeros(64, 64, 64, dtype=torch.uint8), complete=True)
    linear = replace(_settings(), interpolation="linear")
    shifts = []
    for seed in range(6):
        draw = replace(PLAIN, elastic=(450.0, 9.0), position_kji=(0.5, 0.5, 0.5), seed=seed)
        crop = crop_volume(volume, draw=draw, size_kji=(32, 32, 32), settings=linear)[0]
        shifts.append((crop - (torch.arange(32.0) + 16.5))[8:-8, 8:-8, 8:-8])
    found = torch.stack(shifts).std().item()
    # Variance of uniform noise 1/3; a 1D Gaussian keeps the share of its squared weights (within the crop).
    kept = np.mean([(smoothing_matrix(32, sigma=9.0) ** 2).sum(axis=0)[8:-8].mean()]) ** 1.5
    assert found == pytest.approx(450.0 * np.sqrt(kept**2 / 3), rel=0.35)


def test_contrast_is_about_the_mean_and_keeps_the_range() -> None:
    volume = _volume()
    image = volume.image
    strong = _changed(volume, contrast=3.0)
    expected = ((image - image.mean()) * 3.0 + image.mean()).clamp(image.min(), image.max())
    torch.testing.assert_close(strong, expected)
    assert strong.min() == image.min() and strong.max() == image.max()
    weak = _changed(volume, contrast=0.3)
    assert weak.std().item() == pytest.approx(0.3 * image.std().item(), rel=1e-4)
    assert weak.mean().item() == pytest.approx(image.mean().item(), abs=1e-5)


def test_brightness_multiplies() -> None:
    torch.testing.assert_close(_changed(_volume(), brightness=1.7), _volume().image * 1.7)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_mean_and_deviation(gamma: float) -> None:
    volume = _volume()
    image, found = volume.image, _changed(volume, gamma=gamma)
    assert found.mean().item() == pytest.approx(image.mean().item(), abs=1e-4)
    assert found.std().item() == pytest.approx(image.std().item(), rel=1e-4)
    share = (image - image.min()) / (image.max() - image.min())
    bent = share**gamma
    # The same curve but for what brings mean and deviation back.
    assert np.corrcoef(found.ravel(), bent.ravel())[0, 1] == pytest.approx(1.0, abs=1e-5)
    if gamma == 1.0:
        torch.testing.assert_close(found, image, atol=1e-4, rtol=0)


def test_noise_has_the_deviation_drawn_and_follows_from_the_seed() -> None:
    volume = _volume()
    noise = _changed(volume, noise_std=0.05) - volume.image
    assert noise.std().item() == pytest.approx(0.05, rel=0.03) and abs(noise.mean().item()) < 0.003
    crops = [
        crop_volume(volume, draw=replace(PLAIN, noise_std=0.05, seed=seed), size_kji=(8, 8, 8), settings=PAPER)[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])


def test_changes_come_in_the_papers_order() -> None:
    volume = _volume()
    step_by_step = volume
    for change in ({"contrast": 2.0}, {"brightness": 0.6}, {"gamma": 1.4}):
        step_by_step = replace(step_by_step, image=_changed(step_by_step, **change))
    torch.testing.assert_close(_changed(volume, contrast=2.0, brightness=0.6, gamma=1.4), step_by_step.image)


def test_unknown_voxels_count_in_no_statistic() -> None:
    volume = _volume(unknown=True)
    known = volume.labels != UNKNOWN
    for changes in ({"gamma": 1.5}, {"contrast": 0.3}):
        found = _changed(volume, **changes)
        assert found[known].mean().item() == pytest.approx(volume.image[known].mean().item(), abs=1e-4)
    assert _changed(volume, gamma=1.5)[known].std().item() == pytest.approx(volume.image[known].std().item(), rel=1e-4)


def test_batch_holds_the_crops_and_leaves_the_volumes_alone() -> None:
    volume, rng = _volume(), np.random.default_rng(4)
    before = volume.image.clone(), volume.labels.clone()
    every = _settings(mirror=0.5, contrast=1, brightness=1, gamma=1, noise=1, elastic=1, rotation=1, scale=1)
    draws = [draw_crop(every, rng=rng) for _ in range(3)]
    image, labels = crop_batch([volume] * 3, draws=draws, size_kji=(8, 16, 16), settings=every)
    assert image.shape == (3, 1, 8, 16, 16) and image.dtype == torch.float32 and torch.isfinite(image).all()
    assert labels.shape == (3, 8, 16, 16) and labels.dtype == torch.uint8 and int(labels.max()) <= 3
    assert not torch.equal(image[0], image[1])
    assert torch.equal(volume.image, before[0]) and torch.equal(volume.labels, before[1])
