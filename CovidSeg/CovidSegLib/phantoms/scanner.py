"""What the scanner adds to the phantom: table, clothing, blur or edge enhancement, correlated noise, streaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Array


@dataclass(frozen=True)
class Scanner:
    """Random acquisition.

    Attributes:
        noise_hu: Standard deviation of the noise in soft tissue.
        blur_mm: Standard deviation of the point spread in the slice.
        sharpening: 0 for a soft kernel; share of the fine detail added back by a sharp one.
        table_gap_mm: Between the back and the mattress, which is as thick; the table begins below it, present or not.
        table_curve: Curvature of the table top (1/mm); 0 is flat.
        circle: Outside the reconstruction circle there is padding.
    """

    noise_hu: float
    blur_mm: float
    sharpening: float
    table_gap_mm: float
    table_curve: float
    table_hu: float
    mattress: bool
    blanket: bool
    circle: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scanner:
        """Return an acquisition drawn from `rng`; two thirds have a soft kernel."""
        sharp = bool(rng.random() < 0.35)
        return cls(
            noise_hu=float(rng.uniform(18, 40) if sharp else rng.uniform(8, 22)),
            blur_mm=float(rng.uniform(0.4, 0.6) if sharp else rng.uniform(0.6, 1.0)),
            sharpening=float(rng.uniform(0.5, 1.1)) if sharp else 0.0,
            table_gap_mm=float(rng.uniform(3, 14)),
            table_curve=float(rng.choice([0.0, rng.uniform(0.0006, 0.0017)])),
            table_hu=float(rng.uniform(-300, 60)),
            mattress=bool(rng.random() < 0.6),
            blanket=bool(rng.random() < 0.6),
            circle=bool(rng.random() < 0.4),
        )


def surroundings(
    x_mm: Array, y_mm: Array, *, scanner: Scanner, rng: np.random.Generator, back_mm: float, edge_mm: float
) -> Array:
    """Return HU (j, i) of air with table, mattress and blanket, the same in every slice.

    Args:
        x_mm: (i,) voxel centres.
        y_mm: (j,) voxel centres.
        scanner: Which table and blanket.
        rng: Where the blanket lies.
        back_mm: y of the patient's back.
        edge_mm: Width of soft edges.
    """
    x, y = x_mm[None, :], y_mm[:, None]
    sag = scanner.table_curve * x * x
    top = y - (back_mm + scanner.table_gap_mm - sag)
    half_width = np.abs(x) - 215.0
    flat = np.full((y.size, x.size), -1000.0, dtype=np.float32)

    def lay(value: float, distance: Array) -> None:
        flat[...] += (value - flat) * np.clip(0.5 - distance / edge_mm, 0.0, 1.0)

    if scanner.mattress:
        lay(-900.0, np.maximum(np.maximum(-top, top - scanner.table_gap_mm), half_width))
    core = np.maximum(np.maximum(scanner.table_gap_mm - top, top - scanner.table_gap_mm - 34.0 + sag * 0.5), half_width)
    lay(scanner.table_hu, core)
    lay(-930.0, core + 2.5)
    if scanner.blanket:
        height = -back_mm * rng.uniform(1.0, 1.25) + 14.0 * np.sin(x / rng.uniform(18, 50) + rng.uniform(0, 6))
        fold = np.abs(y - height - 0.0018 * x * x) - rng.uniform(0.5, 1.2)
        lay(float(rng.uniform(-850, -600)), np.maximum(fold, np.abs(x - rng.uniform(-80, 80)) - rng.uniform(60, 170)))
    return flat


def scanned(
    hu_kji: Array,
    *,
    spacing_ijk_mm: tuple[float, float, float],
    scanner: Scanner,
    rng: np.random.Generator,
    shoulder_k: Array,
) -> Array:
    """Return the image (int16) of `hu_kji` (float32, changed in place): blur, kernel, noise, streaks.

    Args:
        hu_kji: (k, j, i) true densities.
        spacing_ijk_mm: Voxel size.
        scanner: Kernel and noise.
        rng: Noise only.
        shoulder_k: (k,) 0 to 1; how strongly the shoulders streak in each slice.
    """
    from scipy.ndimage import gaussian_filter

    in_plane = float(np.hypot(scanner.blur_mm / min(spacing_ijk_mm[:2]), 0.3))
    sigma_kji = (0.35, in_plane, in_plane)
    hu = gaussian_filter(hu_kji, sigma_kji, truncate=3.0, output=np.float32)
    if scanner.sharpening > 0:
        wide = (0.0, 1.3 / spacing_ijk_mm[1], 1.3 / spacing_ijk_mm[0])
        gaussian_filter(hu, wide, truncate=3.0, output=hu_kji)
        np.subtract(hu, hu_kji, out=hu_kji)
        hu_kji *= np.float32(scanner.sharpening)
        hu += hu_kji
    hu_kji[...] = rng.standard_normal(hu_kji.shape, dtype=np.float32)
    grain = (0.3, 0.45, 0.45) if scanner.sharpening > 0 else (0.4, 0.8, 0.8)
    noise = gaussian_filter(hu_kji, grain, truncate=3.0, output=np.float32)
    noise *= np.float32(scanner.noise_hu) / max(float(noise[:: max(1, len(noise) // 8)].std()), 1e-6)
    hu += noise
    if shoulder_k.max() > 0.05:
        streaks = gaussian_filter(hu_kji, (0.3, 0.5, 14.0 / spacing_ijk_mm[0]), truncate=2.0, output=noise)
        streaks *= np.float32(1.3 * scanner.noise_hu) / max(float(streaks.std()), 1e-6)
        streaks *= shoulder_k.astype(np.float32)[:, None, None]
        hu += streaks
    np.clip(np.rint(hu, out=hu), -1024, 3071, out=hu)
    image = hu.astype(np.int16)
    if scanner.circle:
        rows, columns = image.shape[1:]
        row, column = np.ogrid[:rows, :columns]
        radius = 0.5 * max(rows, columns)
        outside = (row - 0.5 * rows + 0.5) ** 2 + (column - 0.5 * columns + 0.5) ** 2 > radius**2
        image[:, outside] = -1024
    return image
