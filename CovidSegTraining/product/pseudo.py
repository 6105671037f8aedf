"""Self-training: let the network complete the labels of whole chests where it is sure.

What intensity and position tell about a chest (`partial_labels`) is kept. The network only answers what they leave open
(infected or not, and everything dense near the lungs), and only where it is confident. The prediction runs through the
product's own steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from CovidSegLib.bundle import Bundle
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import InputError
from CovidSegLib.inference import predict
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.labels import Label
from CovidSegLib.postprocess import consistent_labels
from CovidSegLib.preprocess import network_axes, preprocess
from CovidSegLib.progress import Reporter
from CovidSegLib.volume import case_name, read_ct

from ..cache import read_case, write_case
from ..data import WholeChest, refuse_measured_only
from .label_codes import Code

#: Probabilities of infection above and below which a voxel is labelled; between the two it stays open. A wider band
#: would leave the network free to answer differently at each slice thickness.
INFECTED_ABOVE = 0.5
HEALTHY_BELOW = 0.4
#: The network also answers blurred copies of its input (standard deviations along k, j, i), which imitate smoother
#: reconstruction kernels and, with the last, slices of 8 mm. In these it finds dense consolidation, and ground glass
#: between patches of it, that it misses in the sharp input. Learning the mean of all answers, it comes to give the same
#: answer to all of them.
SOFTER_BY_VOXELS_KJI = ((0.35, 0.35, 0.35), (0.55, 0.55, 0.55), (1.2, 0.35, 0.35))
#: What is still unknown at this distance from everything that may be infected (from this probability on) is taken to be
#: free of infection, because overlooked consolidation lies next to some that was found.
FREE_BEYOND_MM = 20.0
MAYBE_INFECTED_FROM = 0.3


def self_label(
    codes_kji: np.ndarray,
    *,
    probabilities: np.ndarray,
    labels_kji: np.ndarray,
    spacing_kji_mm: tuple[float, float, float],
) -> np.ndarray:
    """Return label codes completed by a prediction; a new array.

    Voxels whose class is known (background, airways, certainly aerated lung) keep their code, and "left or infection"
    keeps its side. Where the prediction finds lung, the other voxels become infection or healthy lung if it is sure,
    and "left (or right) or infection" if it is not. Where it finds background they stay as they are: that may be
    hilum, but also consolidated lung that the network misses, and it must not learn its own omissions. Only unknown
    voxels far from everything that may be infected become "no infection".

    Args:
        codes_kji: (k, j, i) uint8 of `Code`.
        probabilities: (4, k, j, i) float32 of `labels.Label`, after `consistent_labels`.
        labels_kji: (k, j, i) uint8, the labels `consistent_labels` returned.
        spacing_kji_mm: Voxel spacing.
    """
    from scipy import ndimage

    unknown = codes_kji == Code.UNKNOWN
    left = (codes_kji == Code.LEFT_OR_INFECTION) | (
        unknown & (probabilities[Label.LEFT_LUNG] >= probabilities[Label.RIGHT_LUNG])
    )
    infection = probabilities[Label.INFECTION]
    answer = np.where(left, np.uint8(Code.LEFT_OR_INFECTION), np.uint8(Code.RIGHT_OR_INFECTION))
    healthy = infection < HEALTHY_BELOW
    answer[healthy & left] = Code.LEFT_LUNG
    answer[healthy & ~left] = Code.RIGHT_LUNG
    answer[infection > INFECTED_ABOVE] = Code.INFECTION

    codes = codes_kji.copy()
    still_open = unknown | (codes_kji == Code.LEFT_OR_INFECTION) | (codes_kji == Code.RIGHT_OR_INFECTION)
    in_lungs = still_open & (labels_kji != Label.BACKGROUND)
    codes[in_lungs] = answer[in_lungs]
    maybe_infected = infection >= MAYBE_INFECTED_FROM
    if maybe_infected.any():
        far = ndimage.distance_transform_edt(~maybe_infected, sampling=spacing_kji_mm) > FREE_BEYOND_MM
        codes[(codes == Code.UNKNOWN) & far] = Code.NOT_INFECTION
    return codes


def self_label_chests(
    chests: Iterable[WholeChest],
    *,
    data_dir: Path,
    cache_dir: Path,
    bundle: Bundle,
    device: str = "cpu",
    tell: Callable[[str], object],
) -> None:
    """Complete the cached labels of diseased whole chests by a bundle's prediction.

    The previous labels are kept in the cache, so that a later, better bundle can start from them again.

    Args:
        chests: Candidates; those without disease need no completion and are left out.
        data_dir: Folder that the chests' paths are relative to.
        cache_dir: Written by `prepare`; its files are replaced one by one.
        bundle: The bundle whose network answers.
        device: As for `resolve_device`.
        tell: Called with a line per case.

    Raises:
        InputError: A case is not prepared, was prepared on another grid, was packed (`pack_cases`) after another
            prediction, or is measured only; or another run is writing to the cache.
    """
    with run_lock(cache_dir):
        for chest in chests:
            if not chest.diseased:
                continue
            path = data_dir / chest.path
            refuse_measured_only(Path(chest.path))
            cached_path = cache_dir / f"{case_name(path)}.npz"
            cached = read_case(cached_path)
            if cached.labelled_by and cached.partial_kji is None:
                raise InputError(
                    f"{cached_path}: packed, without its labels from before another network completed them; give the "
                    "--cache that 'covidseg-train prepare' wrote"
                )
            partial = cached.codes_kji if cached.partial_kji is None else cached.partial_kji
            codes, voxel_ml = _labelled_by(bundle, path, partial_kji=partial, device=device)
            write_case(cached_path, replace(cached, codes_kji=codes, partial_kji=partial, labelled_by=bundle.sha256))
            tell(f"{case_name(path)}: {describe_change(partial, codes, voxel_ml=voxel_ml)}")


def describe_change(before_kji: np.ndarray, after_kji: np.ndarray, *, voxel_ml: float) -> str:
    """Return the volume of each code before and after, in ml, as one line."""
    counts = [np.bincount(codes.ravel(), minlength=len(Code)) * voxel_ml for codes in (before_kji, after_kji)]
    return ", ".join(
        f"{code.name.lower()} {counts[0][code]:.0f} -> {counts[1][code]:.0f} ml"
        for code in Code
        if code != Code.BACKGROUND
    )


def _labelled_by(bundle: Bundle, path: Path, *, partial_kji: np.ndarray, device: str) -> tuple[np.ndarray, float]:
    """Return the completed codes on the cache's grid, and the volume of one voxel."""
    ct = to_hounsfield(read_ct(path))
    seen = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing)
    whole = network_axes(seen.source_axes, recipe=bundle.preprocessing)
    if tuple(axis.count for axis in whole) != partial_kji.shape:
        raise InputError(
            f"{ct.name}: prepared on another grid than bundle '{bundle.name}' uses: prepare it with its spacing"
        )
    probabilities = _predicted_softer_too(seen.image_kji, bundle=bundle, device=device)
    labels = consistent_labels(probabilities, network_input=seen, recipe=bundle.postprocessing)
    # The network sees only the box around the chest, a part of the cached grid.
    starts = [
        round((part.first_mm - axis.first_mm) / axis.step_mm) for part, axis in zip(seen.axes, whole, strict=True)
    ]
    box = tuple(slice(start, start + part.count) for start, part in zip(starts, seen.axes, strict=True))
    codes = partial_kji.copy()
    codes[box] = self_label(
        partial_kji[box], probabilities=probabilities, labels_kji=labels, spacing_kji_mm=seen.spacing_kji_mm
    )
    return codes, seen.voxel_ml


def _predicted_softer_too(image_kji: np.ndarray, *, bundle: Bundle, device: str) -> np.ndarray:
    """Return the mean of the probabilities (4, k, j, i) for the network's input and for softer copies of it."""
    from scipy import ndimage

    images = [image_kji, *(ndimage.gaussian_filter(image_kji, sigma) for sigma in SOFTER_BY_VOXELS_KJI)]
    answers = [
        predict(
            image,
            network=bundle.network,
            integers=bundle.integers,
            mode="accurate",
            device=device,
            reporter=Reporter(),
        ).probabilities
        for image in images
    ]
    return np.asarray(np.mean(answers, axis=0))
