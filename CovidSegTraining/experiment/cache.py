"""Prepared cases of an experiment: each volume is preprocessed once, kept as `.npz`, and redone if anything changes.

The steps and their order are the paper's (section "Preprocessing"): clip, grey, resample, z-score. Where a case has a
`valid.nii.gz`, the voxels outside of it have no label (code 255), count in no statistic, and are 0 in the image, like
the padding of small volumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.orient import Orientation
from CovidSegLib.volume import fingerprint_of, read_ct

from ..cache import key_of, refuse_cases_with
from ..label_files import KNOWN_SHARE, read_known, read_labels
from ..splits import find_cases
from ..whole_files import DAMAGED_NPZ, whole_file
from .config import Preprocessing
from .loss import UNKNOWN

#: Part of every key: to be raised whenever this file starts to make other cases from the same files.
VERSION = 1
#: What reading a damaged case raises.
_DAMAGED = (*DAMAGED_NPZ, KeyError)


@dataclass(frozen=True)
class PreparedVolume:
    """A preprocessed CT, and the way back onto its own grid.

    Attributes:
        image_kji: (k, j, i) float32, in array order or along the patient's axes.
        known_kji: (k, j, i) bool, where the CT is known; None: everywhere.
        orientation: How the CT's array was turned to the patient's axes; None: it was left as stored.
        geometry: The CT's own grid.
    """

    image_kji: np.ndarray
    known_kji: np.ndarray | None
    orientation: Orientation | None
    geometry: Geometry


@dataclass(frozen=True)
class PreparedCase:
    """A case to learn from: image float32 and labels uint8 (255: unknown), both (k, j, i); `key` names their origin."""

    name: str
    image_kji: np.ndarray
    labels_kji: np.ndarray
    key: str


def prepare_cases(
    data_dir: Path,
    *,
    cache_dir: Path,
    settings: Preprocessing,
    classes: int,
    tell: Callable[[str], object],
) -> list[str]:
    """Write every case of a folder into the cache; what is there and still right is left.

    Args:
        data_dir: Holds `<case>/imaging.nii.gz` and `segmentation.nii.gz`, perhaps `valid.nii.gz`.
        cache_dir: Made if need be.
        settings: Of the recipe.
        classes: Labels go from 0 to `classes` - 1.
        tell: Called with a line per case, and with warnings.

    Returns:
        The names of the cases.

    Raises:
        InputError: A file is missing or damaged, lies on another grid, or has a label out of range; or the cache is
            of the product's training, or another run is writing to it.
    """
    names = find_cases(data_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    refuse_cases_with("hu", cache_dir=cache_dir, whose="a recipe of the product")
    for name in names:
        path = cache_dir / f"{name}.npz"
        key = _key(data_dir / name, settings=settings, classes=classes)
        if key_of(path) == key:
            tell(f"{name}: already prepared")
            continue
        with run_lock(cache_dir):  # per case, so that two runs may share a cache unless they write at the same time
            case = prepare_case(data_dir / name, settings=settings, classes=classes, key=key)
            _write(path, case, settings=settings, classes=classes)
        tell(f"{name}: {'x'.join(map(str, case.image_kji.shape[::-1]))}")
        for label in sorted(set(range(classes)) - set(np.unique(case.labels_kji).tolist())):
            tell(f"{name}: warning: no voxel has label {label}")
    return names


def prepare_case(folder: Path, *, settings: Preprocessing, classes: int, key: str = "") -> PreparedCase:
    """Return the prepared case of a folder.

    Raises:
        InputError: As for `prepare_cases`.
    """
    volume = prepare_volume(folder, settings=settings)
    labels = _read_case_labels(folder / "segmentation.nii.gz", geometry=volume.geometry, classes=classes)
    if volume.orientation is not None:
        labels = volume.orientation.view(labels)
    labels = resize_labels(labels, shape_kji=volume.image_kji.shape, threshold=settings.label_threshold)
    if volume.known_kji is not None:
        labels[~volume.known_kji] = UNKNOWN
    return PreparedCase(folder.name, volume.image_kji, labels, key)


def prepare_volume(folder: Path, *, settings: Preprocessing) -> PreparedVolume:
    """Return the preprocessed CT of a case folder; labels are not looked at.

    Raises:
        InputError: `imaging.nii.gz` or `valid.nii.gz` cannot be used.
    """
    ct = read_ct(folder / "imaging.nii.gz")
    valid = read_known(folder, geometry=ct.geometry)
    orientation = Orientation.of(ct.geometry) if settings.orient else None
    spacing_kji_mm, hu = ct.geometry.spacing_ijk_mm[::-1], ct.hu_kji
    if orientation is not None:
        spacing_kji_mm = orientation.spacing_mm(ct.geometry)
        hu, valid = orientation.view(hu), None if valid is None else orientation.view(valid)
    image, known = preprocess_array(hu, valid, spacing_kji_mm=spacing_kji_mm, settings=settings)
    return PreparedVolume(image, known, orientation, ct.geometry)


def preprocess_array(
    hu_kji: np.ndarray,
    valid_kji: np.ndarray | None,
    *,
    spacing_kji_mm: Sequence[float],
    settings: Preprocessing,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return image (float32) and known part (bool, None: all) after clip, grey, resample and z-score.

    Args:
        hu_kji: (k, j, i) HU.
        valid_kji: (k, j, i) bool, None: all known.
        spacing_kji_mm: Voxel spacing.
        settings: Of the recipe.
    """
    image = hu_kji.astype(np.float32)
    if settings.clip_hu is not None:
        image = np.clip(image, *settings.clip_hu)
    counted = image if valid_kji is None else image[valid_kji]
    if settings.grey_levels is not None:
        lowest, highest = float(counted.min()), float(counted.max())
        # The bound is for a volume of a single value, which has no range; it becomes 0.
        image = np.clip((image - lowest) / max(highest - lowest, 1e-6), 0.0, 1.0)
        image = np.round(image * settings.grey_levels)
    known = valid_kji
    if valid_kji is not None:
        # Cubic interpolation across a step at the border of the known part would ring into it.
        image = np.where(valid_kji, image, image[valid_kji].mean())
    if settings.spacing_ijk_mm is not None:
        shape = resampled_shape(image.shape, spacing_kji_mm=spacing_kji_mm, wanted_kji_mm=settings.spacing_ijk_mm[::-1])
        image = resize(image, shape_kji=shape, order=3 if settings.interpolation == "cubic" else 1)
        if valid_kji is not None:
            known = resize(valid_kji.astype(np.float32), shape_kji=shape, order=1) >= KNOWN_SHARE
    if settings.z_score:
        counted = image if known is None else image[known]
        image = (image - counted.mean(dtype=np.float64)) / max(counted.std(dtype=np.float64), 1e-6)
    if known is not None:
        image = np.where(known, image, 0.0)
    return np.ascontiguousarray(image, dtype=np.float32), known


def resampled_shape(
    shape_kji: Sequence[int], *, spacing_kji_mm: Sequence[float], wanted_kji_mm: Sequence[float]
) -> tuple[int, ...]:
    """Return the size after resampling, rounded down, at least 1. The extent is kept, the spacing met only nearly."""
    ratios = np.asarray(spacing_kji_mm) / np.asarray(wanted_kji_mm)
    # Rounding errors must not turn a whole number of voxels into one less.
    return tuple(max(1, int(n * ratio + 1e-6)) for n, ratio in zip(shape_kji, ratios, strict=True))


def resize(image_kji: np.ndarray, *, shape_kji: Sequence[int], order: int) -> np.ndarray:
    """Return an image resized with splines (order 1: linear, 3: cubic), clipped to its own range of values.

    This is what scikit-image's resize does, which the paper's code called: voxels are areas, not points, the outermost
    values continue beyond the border, and nothing is smoothed.
    """
    from scipy.ndimage import zoom

    if tuple(shape_kji) == image_kji.shape:
        return image_kji.astype(np.float32)
    factors = np.asarray(shape_kji) / np.asarray(image_kji.shape)
    resized = zoom(image_kji.astype(np.float32), factors, order=order, mode="nearest", grid_mode=True)
    return np.asarray(np.clip(resized, image_kji.min(), image_kji.max()))


def resize_labels(labels_kji: np.ndarray, *, shape_kji: Sequence[int], threshold: float) -> np.ndarray:
    """Return labels (uint8) resized one by one, linearly; a voxel gets the highest label that reaches the threshold."""
    if tuple(shape_kji) == labels_kji.shape:
        return labels_kji.astype(np.uint8)
    resized = np.zeros(tuple(shape_kji), dtype=np.uint8)
    for label in np.unique(labels_kji):
        if label:
            share = resize((labels_kji == label).astype(np.float32), shape_kji=shape_kji, order=1)
            # Rounding errors must not make a share of exactly one half miss a threshold of 0.5.
            resized[share >= threshold - 1e-6] = label
    return resized


def load_prepared(
    cache_dir: Path, *, names: Collection[str], settings: Preprocessing, classes: int
) -> list[PreparedCase]:
    """Return prepared cases.

    Raises:
        InputError: One is missing, damaged, or was prepared by another recipe.
    """
    recipe = _recipe_key(settings, classes=classes)
    cases = []
    for name in names:
        path = cache_dir / f"{name}.npz"
        try:
            with np.load(path) as data:
                # A case of the product's training has no such entry.
                if str(data.get("recipe", "")) != recipe:
                    raise InputError(
                        f"{path}: prepared by another recipe (preprocessing or classes differ); "
                        "run 'covidseg-train prepare' with this one, into a folder of its own"
                    )
                cases.append(PreparedCase(name, data["image"], data["labels"], str(data["key"])))
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: not prepared; run 'covidseg-train prepare' with this recipe, "
                "or make folds of the cases there are with 'split'"
            ) from error
        except PermissionError:
            raise  # nothing is damaged
        except _DAMAGED as error:
            raise InputError(f"{path}: damaged ({error}); delete it and run 'covidseg-train prepare' again") from error
    return cases


def _read_case_labels(path: Path, *, geometry: Geometry, classes: int) -> np.ndarray:
    labels = read_labels(path, geometry=geometry)
    if labels.max(initial=0) >= classes:
        raise InputError(
            f"{path}: label {labels.max()} is out of range; the recipe has {classes} classes, 0 to {classes - 1}. "
            "Correct the labels, or network.classes."
        )
    return labels


def _recipe_key(settings: Preprocessing, *, classes: int) -> str:
    return json.dumps([VERSION, asdict(settings), classes], sort_keys=True)


def _key(folder: Path, *, settings: Preprocessing, classes: int) -> str:
    files = [folder / f"{name}.nii.gz" for name in ("imaging", "segmentation", "valid")]
    parts = [_recipe_key(settings, classes=classes), *(fingerprint_of(path) if path.exists() else "" for path in files)]
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write(path: Path, case: PreparedCase, *, settings: Preprocessing, classes: int) -> None:
    with whole_file(path) as aside, aside.open("wb") as stream:
        np.savez(
            stream,
            image=case.image_kji,
            labels=case.labels_kji,
            key=np.array(case.key),
            recipe=np.array(_recipe_key(settings, classes=classes)),
        )
