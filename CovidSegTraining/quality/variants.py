"""The same patient stored or scanned in another way, which must not change the result, or only a little.

In every variant the geometry is changed together with the voxels, so that each voxel keeps its position in the patient;
results are compared by position, whatever their grids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from CovidSegLib.boxes import bounding_box, grown
from CovidSegLib.geometry import Geometry
from CovidSegLib.orient import Orientation
from CovidSegLib.resample import covering_axis, image_axes, resample_kji
from CovidSegLib.volume import CTVolume

AIR_HU = -1024
SLICES_MM = (1.0, 3.0, 5.0, 8.0)
NOISE_HU = (20.0, 50.0)
ROTATION_DEG = 10.0
CROP_MARGIN_MM = 5.0
#: Windows with which CTs of the lungs are published as 8-bit pictures, usually without mention of the window.
PICTURE_WINDOWS_HU = ((-1350.0, 150.0), (-1200.0, 400.0), (-1100.0, 200.0), (-1000.0, 400.0))


def storage_variants(ct: CTVolume) -> Iterator[tuple[str, CTVolume]]:
    """Yield names and CTs: each axis stored flipped, then axes swapped; by the header, every voxel stays in place."""
    for axis, name in enumerate("ijk"):
        yield f"{name} flipped", flip(ct, axis_ijk=axis)
    yield "i and j swapped", permute(ct, order_ijk=(1, 0, 2))
    yield "i and k swapped", permute(ct, order_ijk=(2, 1, 0))


def robustness_variants(ct: CTVolume, *, labelmap_kji: np.ndarray) -> Iterator[tuple[str, CTVolume]]:
    """Yield names and CTs: other slices, shifted, noisy, cropped to the lungs, rotated, as 8-bit pictures.

    Args:
        ct: The CT in HU.
        labelmap_kji: The labelmap found in the untouched CT; it tells where the lungs are.
    """
    for thickness_mm in SLICES_MM:
        yield f"{thickness_mm:g} mm slices", reslice(ct, thickness_mm=thickness_mm)
    yield "half a voxel shifted", shift(ct, voxels=0.5)
    for sigma_hu in NOISE_HU:
        yield f"noise {sigma_hu:g} HU", add_noise(ct, sigma_hu=sigma_hu, seed=0)
    yield "cropped to the lungs", crop_to_mask(ct, mask_kji=labelmap_kji > 0)
    yield f"rotated {ROTATION_DEG:g} degrees", rotate(ct, degrees=ROTATION_DEG)
    for window_hu in PICTURE_WINDOWS_HU:
        yield f"picture of {window_hu[0]:g}..{window_hu[1]:g} HU", as_picture(ct, window_hu=window_hu)


def flip(ct: CTVolume, *, axis_ijk: int) -> CTVolume:
    """Return the CT with one grid axis stored the other way round."""
    direction = ct.geometry.direction_matrix.copy()
    steps = (ct.geometry.size_ijk[axis_ijk] - 1) * ct.geometry.spacing_ijk_mm[axis_ijk]
    origin = np.asarray(ct.geometry.origin_lps_mm) + direction[:, axis_ijk] * steps
    direction[:, axis_ijk] *= -1
    geometry = replace(ct.geometry, origin_lps_mm=_point(origin), direction_lps=_floats(direction))
    return replace(ct, hu_kji=np.ascontiguousarray(np.flip(ct.hu_kji, axis=2 - axis_ijk)), geometry=geometry)


def permute(ct: CTVolume, *, order_ijk: tuple[int, int, int]) -> CTVolume:
    """Return the CT with its grid axes in another order: new axis n is old axis `order_ijk[n]`."""
    order_kji = tuple(2 - order_ijk[2 - n] for n in range(3))
    geometry = Geometry(
        size_ijk=tuple(ct.geometry.size_ijk[n] for n in order_ijk),  # type: ignore[arg-type]
        spacing_ijk_mm=tuple(ct.geometry.spacing_ijk_mm[n] for n in order_ijk),  # type: ignore[arg-type]
        origin_lps_mm=ct.geometry.origin_lps_mm,
        direction_lps=_floats(ct.geometry.direction_matrix[:, list(order_ijk)]),
    )
    return replace(ct, hu_kji=np.ascontiguousarray(ct.hu_kji.transpose(order_kji)), geometry=geometry)


def reslice(ct: CTVolume, *, thickness_mm: float) -> CTVolume:
    """Return the CT with slices of another thickness along its head-foot axis, averaged where they are thicker."""
    axis = Orientation.of(ct.geometry).order[0]  # of the array (k, j, i)
    spacing_kji = ct.geometry.spacing_ijk_mm[::-1]
    source = image_axes(ct.hu_kji.shape, spacing_kji_mm=spacing_kji)
    target = list(source)
    target[axis] = covering_axis(source[axis], thickness_mm)
    hu = resample_kji(ct.hu_kji, source=source, target=tuple(target))  # type: ignore[arg-type]
    direction = ct.geometry.direction_matrix[:, 2 - axis]
    geometry = Geometry(
        size_ijk=tuple(grid.count for grid in target[::-1]),  # type: ignore[arg-type]
        spacing_ijk_mm=tuple(grid.step_mm for grid in target[::-1]),  # type: ignore[arg-type]
        origin_lps_mm=_point(np.asarray(ct.geometry.origin_lps_mm) + direction * target[axis].first_mm),
        direction_lps=ct.geometry.direction_lps,
    )
    return replace(ct, hu_kji=_int16(hu), geometry=geometry)


def shift(ct: CTVolume, *, voxels: float) -> CTVolume:
    """Return the CT sampled (linearly) on its own grid moved by a share of a voxel along every axis."""
    offset = ct.geometry.direction_matrix @ (np.asarray(ct.geometry.spacing_ijk_mm) * voxels)
    return _sampled_on(ct, replace(ct.geometry, origin_lps_mm=_point(np.asarray(ct.geometry.origin_lps_mm) + offset)))


def add_noise(ct: CTVolume, *, sigma_hu: float, seed: int) -> CTVolume:
    """Return the CT with Gaussian noise, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(0.0, sigma_hu, ct.hu_kji.shape)
    return replace(ct, hu_kji=_int16(ct.hu_kji + noise))


def as_picture(ct: CTVolume, *, window_hu: tuple[float, float]) -> CTVolume:
    """Return the CT as grey from 0 to 255, black at the window's lower end and white at its upper."""
    lower, upper = window_hu
    grey = np.clip(np.rint((ct.hu_kji.astype(np.float32) - lower) * (255.0 / (upper - lower))), 0, 255)
    return replace(ct, hu_kji=grey.astype(np.uint8))


def crop_to_mask(ct: CTVolume, *, mask_kji: np.ndarray) -> CTVolume:
    """Return the part of the CT in the box around a mask, with a small margin; the CT itself if the mask is empty."""
    box = bounding_box(mask_kji)
    if box is None:
        return ct
    margin_kji = [round(CROP_MARGIN_MM / mm) for mm in ct.geometry.spacing_ijk_mm[::-1]]
    box = grown(box, margin_kji=margin_kji, shape_kji=mask_kji.shape)
    k, j, i = box
    corner = ct.geometry.ijk_to_lps @ np.array([i.start, j.start, k.start, 1.0])
    hu_kji = np.ascontiguousarray(ct.hu_kji[box])
    size_k, size_j, size_i = hu_kji.shape
    geometry = replace(ct.geometry, size_ijk=(size_i, size_j, size_k), origin_lps_mm=_point(corner[:3]))
    return replace(ct, hu_kji=hu_kji, geometry=geometry)


def rotate(ct: CTVolume, *, degrees: float) -> CTVolume:
    """Return the CT sampled (linearly) on its grid turned about the patient's head-foot axis through its centre.

    To the network, which looks along the grid's axes, the patient lies rotated.
    """
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    middle = np.append((np.asarray(ct.geometry.size_ijk) - 1) / 2.0, 1.0)
    center = (ct.geometry.ijk_to_lps @ middle)[:3]
    origin = center + turn @ (np.asarray(ct.geometry.origin_lps_mm) - center)
    direction = turn @ ct.geometry.direction_matrix
    return _sampled_on(ct, replace(ct.geometry, origin_lps_mm=_point(origin), direction_lps=_floats(direction)))


def labels_on(labelmap_kji: np.ndarray, *, geometry: Geometry, target: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return a labelmap at the voxel centres of another grid (nearest voxel), and where that grid is covered."""
    import SimpleITK as sitk

    # 255 marks what lies outside; it is background in the labels.
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(target.to_sitk(np.zeros(target.shape_kji, dtype=np.uint8)))
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(255)
    labels = sitk.GetArrayFromImage(resampler.Execute(geometry.to_sitk(labelmap_kji.astype(np.uint8))))
    covered = labels != 255
    return np.where(covered, labels, np.uint8(0)), covered


def _sampled_on(ct: CTVolume, geometry: Geometry) -> CTVolume:
    import SimpleITK as sitk

    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(geometry.to_sitk(np.zeros(geometry.shape_kji, dtype=np.uint8)))
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(float(AIR_HU))
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    image = resampler.Execute(ct.geometry.to_sitk(ct.hu_kji))
    return replace(ct, hu_kji=_int16(sitk.GetArrayFromImage(image)), geometry=geometry)


def _int16(hu: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(hu), -32768, 32767).astype(np.int16)


def _point(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = _floats(values)
    return (x, y, z)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(values).ravel())
