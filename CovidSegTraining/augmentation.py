"""Random training patches of the product recipe: cut, deformed and degraded in one pass, on the device.

The spatial part samples a patch straight from the whole case (rotation, anisotropic scale,
elastic deformation; if asked for, mirroring left to right with the sides exchanged), the
intensity part imitates what real scans differ in: noise, kernel, slice thickness, scale
offsets, 8-bit export, cropped fields of view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from CovidSegLib.resample import AxisGrid, axis_weights

from .product.label_codes import Code, mirrored_codes

if TYPE_CHECKING:
    import torch

#: Codes of lung that may hold air.
AERATED = (Code.LEFT_LUNG, Code.RIGHT_LUNG, Code.LEFT_OR_INFECTION, Code.RIGHT_OR_INFECTION)
#: What an export to 256 grey levels keeps: a lung window, whichever window the network sees.
EXPORT_WINDOW_HU = (-1250.0, 250.0)


@dataclass(frozen=True)
class AugmentationRecipe:
    """Ranges and probabilities; angles in degrees, intensities in HU.

    Attributes:
        spatial_probability: Of a rotation with scale.
        scale: Range of the common scale; `anisotropy` is how far each axis may differ from it (logarithm).
        mirror_probability: Of a chest mirrored left to right: its left lung becomes the right one.
        inflation: Range of the density that aerated lung is left with, as a share: emphysema, deep breath.
        intensity_probability: Of a gain about air and an offset.
        thickness: Range of the thickness of slices, in voxels along k.
    """

    spatial_probability: float = 0.8
    rotation_deg: float = 12.0
    scale: tuple[float, float] = (0.8, 1.25)
    anisotropy: float = 0.08
    elastic_mm: float = 4.0
    elastic_probability: float = 0.3
    mirror_probability: float = 0.0
    inflation_probability: float = 0.3
    inflation: tuple[float, float] = (0.2, 1.0)
    noise_hu: float = 90.0
    noise_probability: float = 0.35
    intensity_probability: float = 0.6
    offset_hu: float = 35.0
    gain: tuple[float, float] = (0.92, 1.08)
    blur_probability: float = 0.3
    sharpen_probability: float = 0.15
    thick_probability: float = 0.7
    thickness: tuple[float, float] = (1.6, 3.8)
    export_8bit_probability: float = 0.1
    crop_probability: float = 0.25


def sample_patch(
    hu: torch.Tensor,
    codes: torch.Tensor,
    *,
    center_kji: np.ndarray,
    patch_kji: tuple[int, int, int],
    spacing_kji_mm: tuple[float, float, float],
    recipe: AugmentationRecipe,
    outside_hu: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a deformed patch around a voxel.

    Args:
        hu: (k, j, i) float32 HU of the whole case, on any device.
        codes: (k, j, i) uint8 label codes.
        center_kji: Voxel at the patch's centre.
        patch_kji: Size wanted.
        spacing_kji_mm: Grid spacing, so that rotations are rigid in mm.
        recipe: Ranges.
        outside_hu: Value beyond the case's border (labelled unknown).
        rng: Source of all randomness.

    Returns:
        HU (k, j, i) float32 and codes (k, j, i) uint8 of size `patch_kji`.
    """
    import torch
    from torch.nn import functional

    device = hu.device
    matrix = _random_matrix(recipe, rng) if rng.random() < recipe.spatial_probability else np.eye(3)
    spacing = np.asarray(spacing_kji_mm)
    to_voxels = torch.from_numpy((matrix / spacing[:, None] * spacing[None, :]).astype(np.float32)).to(device)
    lines = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2.0 for n in patch_kji]
    offsets = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    points = offsets @ to_voxels.T + torch.from_numpy(center_kji.astype(np.float32)).to(device)
    if rng.random() < recipe.elastic_probability:
        points = points + _elastic(patch_kji, recipe.elastic_mm, rng=rng, device=device) / torch.tensor(
            spacing_kji_mm, dtype=torch.float32, device=device
        )
    mirrored = recipe.mirror_probability > 0 and rng.random() < recipe.mirror_probability
    if mirrored:
        points = points.flip(2)
    size = torch.tensor(hu.shape, dtype=torch.float32, device=device)
    grid = ((2.0 * points + 1.0) / size - 1.0).flip(-1)[None]  # grid_sample wants (i, j, k)
    # Shifted so that zero padding means "outside the case".
    image = functional.grid_sample((hu - outside_hu)[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
    shifted = (codes.to(torch.float32) - float(Code.UNKNOWN))[None, None]
    labels = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)[0, 0] + float(Code.UNKNOWN)
    labels = labels.round().to(torch.uint8)
    if mirrored:
        labels = torch.from_numpy(mirrored_codes()).to(device)[labels.long()]
    return image + outside_hu, labels


def degrade(
    image_hu: torch.Tensor,
    codes: torch.Tensor,
    *,
    recipe: AugmentationRecipe,
    outside_hu: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patch and codes after random changes of intensity, resolution and field of view.

    Args:
        image_hu: (k, j, i) float32 HU.
        codes: (k, j, i) uint8 label codes; only a cropped field of view changes them.
        recipe: Ranges and probabilities.
        outside_hu: Value that a cropped field of view is filled with.
        rng: Source of all randomness.
    """
    import torch

    x = image_hu
    if rng.random() < recipe.inflation_probability:
        x = _inflate(x, codes, density=float(rng.uniform(*recipe.inflation)))
    if rng.random() < recipe.blur_probability:
        x = _blur(x, sigma=float(rng.uniform(0.3, 0.9)))
    elif rng.random() < recipe.sharpen_probability:
        x = x + float(rng.uniform(0.3, 1.2)) * (x - _blur(x, sigma=0.8))
    if rng.random() < recipe.thick_probability:
        thickness = float(rng.uniform(*recipe.thickness))
        x = _thick_slices(x, thickness=thickness, phase=float(rng.random()), averaged=rng.random() < 0.8)
    if rng.random() < recipe.noise_probability:
        generator = torch.Generator(device=x.device).manual_seed(int(rng.integers(2**31)))
        noise = torch.randn(x.shape, generator=generator, device=x.device) * float(rng.uniform(0, recipe.noise_hu))
        x = x + (_blur(noise, sigma=0.6) * 1.8 if rng.random() < 0.4 else noise)
    if rng.random() < recipe.intensity_probability:
        x = (x + 1000.0) * float(rng.uniform(*recipe.gain)) - 1000.0 + float(rng.uniform(-1, 1)) * recipe.offset_hu
    if rng.random() < recipe.export_8bit_probability:
        low, high = EXPORT_WINDOW_HU
        x = torch.round((x.clamp(low, high) - low) / (high - low) * 255.0) / 255.0 * (high - low) + low
    if rng.random() < recipe.crop_probability:
        x, codes = _crop_view(x.clone(), codes.clone(), outside_hu=outside_hu, rng=rng)
    return x, codes


def _inflate(x: torch.Tensor, codes: torch.Tensor, *, density: float) -> torch.Tensor:
    """Return `x` (k, j, i) with aerated lung at a share of its density; what is denser stays, with a soft border."""
    import torch

    lung = torch.isin(codes, torch.tensor([int(code) for code in AERATED], dtype=codes.dtype, device=codes.device))
    aerated = lung * ((-500.0 - x) / 200.0).clamp(0.0, 1.0)
    return (x + 1000.0) * (1.0 - aerated * (1.0 - density)) - 1000.0


def _random_matrix(recipe: AugmentationRecipe, rng: np.random.Generator) -> np.ndarray:
    """Return a random rotation times an anisotropic scale, (3, 3), in millimetres (k, j, i)."""
    angles = np.deg2rad(rng.uniform(-recipe.rotation_deg, recipe.rotation_deg, size=3))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    common = np.exp(rng.uniform(np.log(recipe.scale[0]), np.log(recipe.scale[1])))
    return np.asarray(matrix @ np.diag(common * np.exp(rng.uniform(-recipe.anisotropy, recipe.anisotropy, size=3))))


def _elastic(
    patch_kji: tuple[int, int, int], amplitude_mm: float, *, rng: np.random.Generator, device: torch.device
) -> torch.Tensor:
    """Return a smooth random displacement (k, j, i, 3) in mm."""
    import torch
    from torch.nn import functional

    nodes = torch.from_numpy(rng.normal(0, amplitude_mm, size=(1, 3, 4, 6, 6)).astype(np.float32)).to(device)
    return functional.interpolate(nodes, size=patch_kji, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)


def _blur(x: torch.Tensor, *, sigma: float) -> torch.Tensor:
    """Return `x` (k, j, i) blurred in-plane by a 3x3 kernel, as a softer reconstruction kernel does."""
    import torch
    from torch.nn import functional

    line = torch.tensor([np.exp(-0.5 / sigma**2), 1.0, np.exp(-0.5 / sigma**2)], dtype=x.dtype, device=x.device)
    line = line / line.sum()
    padded = functional.pad(x[:, None], (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] * line[0] + padded[:, :, 1:-1] * line[1] + padded[:, :, 2:] * line[2]
    return (rows[..., :-2] * line[0] + rows[..., 1:-1] * line[1] + rows[..., 2:] * line[2])[:, 0]


def _thick_slices(x: torch.Tensor, *, thickness: float, phase: float, averaged: bool) -> torch.Tensor:
    """Return `x` as if its slices had been `thickness` voxels thick (or that far apart), on the same grid."""
    import torch

    count = x.shape[0]
    thin = AxisGrid(0.0, 1.0, count)
    thick = AxisGrid(-phase * thickness, thickness, int(np.ceil(count / thickness)) + 2)
    weights = axis_weights(thin, thick)
    if not averaged:
        weights = np.eye(count, dtype=np.float32)[weights.argmax(axis=1)]
    matrix = torch.from_numpy(axis_weights(thick, thin) @ weights).to(x.device)
    return (matrix @ x.reshape(count, -1)).reshape(x.shape)


def _crop_view(
    x: torch.Tensor, codes: torch.Tensor, *, outside_hu: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide one side of the patch in place, as a small field of view or a scan that starts late does."""
    axis = int(rng.integers(0, 3))
    hidden = int(x.shape[axis] * rng.uniform(0.05, 0.35))
    where: list[slice] = [slice(None)] * 3
    where[axis] = slice(0, hidden) if rng.random() < 0.5 else slice(x.shape[axis] - hidden, None)
    x[tuple(where)] = outside_hu
    codes[tuple(where)] = int(Code.BACKGROUND)
    return x, codes
