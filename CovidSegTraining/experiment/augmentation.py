"""The experiment's random crops and their augmentation: drawn as numbers first, then applied on the volumes' device.

As in the paper's code (section "Data augmentation"), intensities are changed over the whole volume, with the statistics
of the whole volume; rotation, scaling, elastic deformation and crop follow as the last step, in a single
interpolation. Mirroring commutes with all of that, so it is applied to the coordinates and not to the volume. Rotation
and deformation are in voxels, not in millimetres. Beyond the volume, image and label are 0. Cubic interpolation is that
of the library the paper used (B-splines, SciPy's order 3), not a linear stand-in; see `sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from CovidSegLib.labels import Label

from .config import Augmentation, TwoSided
from .loss import UNKNOWN
from .sampling import sample_image, sample_labels

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Volume:
    """A prepared case as tensors (k, j, i): image float32, labels uint8; `complete` if no label is unknown."""

    image: torch.Tensor
    labels: torch.Tensor
    complete: bool


@dataclass(frozen=True)
class Draw:
    """The random choices for one crop; a change that is None is not made.

    Attributes:
        position_kji: Where the crop lies along each axis: from 0, one end of the places it may take, to below 1.
        seed: Seed of noise and deformation.
        flip_kji: Whether each axis is mirrored.
        contrast: Factor on the distance from the mean.
        brightness: Factor.
        gamma: Exponent.
        noise_std: Standard deviation of the Gaussian noise.
        elastic: Alpha and sigma, in voxels.
        angles_ijk: Rotation about each axis, radians.
        scale: Distance between neighbouring voxels of the crop, in voxels of the volume.
    """

    position_kji: tuple[float, float, float]
    seed: int
    flip_kji: tuple[bool, bool, bool] = (False, False, False)
    contrast: float | None = None
    brightness: float | None = None
    gamma: float | None = None
    noise_std: float | None = None
    elastic: tuple[float, float] | None = None
    angles_ijk: tuple[float, float, float] | None = None
    scale: float | None = None


def draw_crop(settings: Augmentation | None, *, rng: np.random.Generator) -> Draw:
    """Return the random choices for one crop; with `settings` None only its position is random."""
    k, j, i = rng.random(3).tolist()
    plain = Draw(position_kji=(k, j, i), seed=int(rng.integers(2**62)))
    if settings is None:
        return plain
    flip_i, flip_j, flip_k = (rng.random(3) < settings.mirror.probability_ijk).tolist()

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    def two_sided(factor: TwoSided) -> float | None:
        if not happens(factor.probability):
            return None
        return float(rng.uniform(*(factor.below if rng.random() < 0.5 else factor.above)))

    # The order of these draws is part of every result: another order would give other crops for the same seed.
    contrast = two_sided(settings.contrast)
    brightness = float(rng.uniform(*settings.brightness.factor)) if happens(settings.brightness.probability) else None
    gamma = two_sided(settings.gamma)
    noise_std = float(rng.uniform(*settings.noise.std)) if happens(settings.noise.probability) else None
    elastic = angles_ijk = None
    if happens(settings.elastic.probability):
        elastic = (float(rng.uniform(*settings.elastic.alpha)), float(rng.uniform(*settings.elastic.sigma)))
    if happens(settings.rotation.probability):
        limits = np.deg2rad(settings.rotation.degrees_ijk)
        about_i, about_j, about_k = rng.uniform(-limits, limits).tolist()
        angles_ijk = (about_i, about_j, about_k)
    return replace(
        plain,
        flip_kji=(flip_k, flip_j, flip_i),
        contrast=contrast,
        brightness=brightness,
        gamma=gamma,
        noise_std=noise_std,
        elastic=elastic,
        angles_ijk=angles_ijk,
        scale=two_sided(settings.scale),
    )


def crop_batch(
    volumes: Sequence[Volume], *, draws: Sequence[Draw], size_kji: tuple[int, int, int], settings: Augmentation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch: images (n, 1, k, j, i) float32 and labels (n, k, j, i) uint8, on the volumes' device.

    Args:
        volumes: One per crop.
        draws: One per crop.
        size_kji: Of the crops.
        settings: What is the same for all crops: interpolation, and whether mirroring exchanges the lungs' labels.
    """
    import torch

    # One after the other, because the volumes differ in size; each crop is work enough to keep the device busy.
    crops = [
        crop_volume(volume, draw=draw, size_kji=size_kji, settings=settings)
        for volume, draw in zip(volumes, draws, strict=True)
    ]
    return torch.stack([image for image, _ in crops]).unsqueeze(1), torch.stack([labels for _, labels in crops])


def crop_volume(
    volume: Volume, *, draw: Draw, size_kji: tuple[int, int, int], settings: Augmentation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one crop, image and labels (k, j, i); the volume is left as it is."""
    import torch

    generator = torch.Generator(device=volume.image.device).manual_seed(draw.seed)
    image = change_intensities(volume, draw=draw, generator=generator)
    if draw.elastic is None and draw.angles_ijk is None and draw.scale is None:
        crop, labels = (_plain_crop(array, draw=draw, size_kji=size_kji) for array in (image, volume.labels))
    else:
        points = _crop_points(draw, shape_kji=image.shape, size_kji=size_kji, generator=generator)
        cubic = settings is not None and settings.interpolation == "cubic"
        crop, labels = sample_image(image, points, cubic=cubic), sample_labels(volume.labels, points)
    if settings is not None and settings.mirror.swaps_sides and draw.flip_kji[2]:
        labels = _sides_swapped(labels)
    return crop, labels


def change_intensities(volume: Volume, *, draw: Draw, generator: torch.Generator) -> torch.Tensor:
    """Return the whole image after contrast, brightness, gamma and noise, in this order."""
    import torch

    image = volume.image
    if draw.contrast is not None:
        mean, lowest, highest = _mean_and_deviation(image, volume)[0], image.min(), image.max()
        image = torch.clamp((image - mean) * draw.contrast + mean, lowest, highest)
    if draw.brightness is not None:
        image = image * draw.brightness
    if draw.gamma is not None:
        mean, deviation = _mean_and_deviation(image, volume)
        lowest = image.min()
        reach = image.max() - lowest
        image = ((image - lowest) / (reach + 1e-7)).clamp_(min=0.0).pow_(draw.gamma) * reach + lowest
        new_mean, new_deviation = _mean_and_deviation(image, volume)
        image = (image - new_mean) * (deviation / (new_deviation + 1e-8)) + mean
    if draw.noise_std is not None:
        image = image + draw.noise_std * torch.randn(image.shape, generator=generator, device=image.device)
    return image


def _mean_and_deviation(image: torch.Tensor, volume: Volume) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation over the voxels whose label is known."""
    if volume.complete:
        return image.mean(), image.std(correction=0)
    known = volume.labels != UNKNOWN
    mean = (image * known).sum() / known.sum()
    return mean, (((image - mean) ** 2 * known).sum() / known.sum()).sqrt()


def _plain_crop(array: torch.Tensor, *, draw: Draw, size_kji: tuple[int, int, int]) -> torch.Tensor:
    """Return a crop without interpolation; where the volume is smaller, it is centred in it and padded with 0."""
    from torch.nn import functional

    window: list[slice] = []
    padding: list[int] = []
    for axis, (count, size) in enumerate(zip(array.shape, size_kji, strict=True)):
        # Like the library, this never draws the last possible place.
        start = int(draw.position_kji[axis] * (count - size)) if count > size else (count - size) // 2
        before, after = max(0, -start), max(0, start + size - count)
        if draw.flip_kji[axis]:
            start, before, after = count - size - start, after, before
        window.append(slice(max(0, start), max(0, start) + size))
        padding = [before, after, *padding]  # torch expects the last axis first
    crop = functional.pad(array[tuple(window)], padding)
    return crop.flip([axis for axis in range(3) if draw.flip_kji[axis]])


def _crop_points(
    draw: Draw, *, shape_kji: Sequence[int], size_kji: tuple[int, int, int], generator: torch.Generator
) -> torch.Tensor:
    """Return where the crop's voxels lie in the volume, (k, j, i, 3) in voxels."""
    import torch

    device = generator.device
    lines = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2.0 for n in size_kji]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    if draw.elastic is not None:
        alpha, sigma = draw.elastic
        points = points + alpha * _smooth_noise(size_kji, sigma=sigma, generator=generator)
    matrix = (_rotation_kji(draw.angles_ijk) if draw.angles_ijk is not None else np.eye(3)) * (draw.scale or 1.0)
    centers = [
        size // 2 + position * (count - 2 * (size // 2))
        for size, count, position in zip(size_kji, shape_kji, draw.position_kji, strict=True)
    ]
    # Mirroring comes before everything else: point p of the mirrored volume is point count - 1 - p of the stored one.
    signs = np.where(draw.flip_kji, -1.0, 1.0)
    offsets = np.where(draw.flip_kji, np.asarray(shape_kji) - 1.0 - centers, centers)
    to_points = torch.from_numpy((matrix * signs).astype(np.float32)).to(device)
    return points @ to_points + torch.from_numpy(offsets.astype(np.float32)).to(device)


def _rotation_kji(angles_ijk: tuple[float, float, float]) -> np.ndarray:
    """Return the matrix that rows of (k, j, i) are multiplied with: about i, then j, then k."""
    (ci, cj, ck), (si, sj, sk) = np.cos(angles_ijk), np.sin(angles_ijk)
    about_i = np.array([[1, 0, 0], [0, ci, -si], [0, si, ci]])
    about_j = np.array([[cj, 0, sj], [0, 1, 0], [-sj, 0, cj]])
    about_k = np.array([[ck, -sk, 0], [sk, ck, 0], [0, 0, 1]])
    return np.asarray((about_i @ about_j @ about_k)[::-1, ::-1])


def _smooth_noise(size_kji: tuple[int, int, int], *, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """Return (k, j, i, 3) uniform noise in -1..1, smoothed by a Gaussian, with 0 beyond the crop."""
    import torch

    noise = torch.rand((3, *size_kji), generator=generator, device=generator.device) * 2.0 - 1.0
    for axis, count in enumerate(size_kji, start=1):
        smoothing = torch.from_numpy(smoothing_matrix(count, sigma=sigma)).to(noise.device)
        noise = (noise.movedim(axis, -1) @ smoothing).movedim(-1, axis)
    return noise.movedim(0, -1)


def smoothing_matrix(count: int, *, sigma: float) -> np.ndarray:
    """Return the (count, count) float32 matrix that smooths a line of values with a Gaussian.

    The Gaussian is cut off at 4 sigma as in SciPy, and values beyond the ends of the line count as 0. Multiplying with
    the matrix is several times faster than a convolution with a hundred taps.
    """
    radius = int(4.0 * sigma + 0.5)
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    return np.asarray(np.where(distance <= radius, np.exp(-0.5 * (distance / sigma) ** 2), 0) / total, dtype=np.float32)


def _sides_swapped(labels: torch.Tensor) -> torch.Tensor:
    import torch

    left, right = labels == int(Label.LEFT_LUNG), labels == int(Label.RIGHT_LUNG)
    swapped = torch.where(left, int(Label.RIGHT_LUNG), labels)
    return torch.where(right, int(Label.LEFT_LUNG), swapped).to(labels.dtype)
