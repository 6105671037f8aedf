"""Put all training material on the network's grid, with label codes, into a cache of `.npz` files.

A case is built once, and rebuilt if its files, its entry in the settings or the preprocessing change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.labels import Label
from CovidSegLib.preprocess import NetworkInput, PreprocessingRecipe, preprocess
from CovidSegLib.volume import case_name, fingerprint_of, read_ct

from .cache import CachedCase, case_files, key_of, preparation_of, read_case, refuse_cases_with, write_case
from .data import DataConfig, LabelledCases, LungMask, WholeChest, labelled_folders, refuse_measured_only
from .label_files import (
    KNOWN_SHARE,
    labels_on_network_grid,
    read_known,
    read_labels,
    read_segmentation,
    share_on_network_grid,
)
from .product.label_codes import Code
from .product.partial_labels import whole_chest_codes

#: Part of every key: to be raised whenever this file, or what it calls, starts to make other cases from the same files.
VERSION = 4
#: In weakly labelled cases, unlabelled voxels below this may be lung that the labels miss.
MAYBE_LUNG_BELOW_HU = -500.0
#: Outside the mask of one lung, voxels below this may be the other lung, or airway.
OTHER_AIR_BELOW_HU = -400.0
#: Findings that the phantoms take in turn; what an entry leaves out, the phantom's seed decides.
PHANTOM_FINDINGS: tuple[dict[str, Any], ...] = (
    *({} for _ in range(9)),
    {"consolidated_lung": "left"},
    {"consolidated_lung": "right", "infection_percent": 5.0},
    {"effusion": "left"},
    {"effusion": "right"},
    {"infection_percent": 0.0},
    {"infection_percent": 0.0},
    {"missing_lung": "left"},
)


@dataclass(frozen=True)
class _Job:
    """A case to prepare.

    Attributes:
        name: Name of the case.
        weight: How often it is drawn in training, relative to the others.
        depends_on: What its HU and codes depend on besides the preprocessing, as plain values.
        build: Returns its HU and codes.
    """

    name: str
    weight: float
    depends_on: dict[str, Any]
    build: Callable[[], tuple[np.ndarray, np.ndarray]]


def prepare(
    config: DataConfig,
    *,
    data_dir: Path,
    cache_dir: Path,
    preprocessing: PreprocessingRecipe,
    tell: Callable[[str], object],
) -> None:
    """Write every case of the data lists into the cache; cases that are up to date are kept, unlisted ones removed.

    Args:
        config: The data lists; paths are relative to `data_dir`.
        data_dir: Folder of the real CTs.
        cache_dir: Made if need be.
        preprocessing: The preprocessing of the network to be trained; its wide kernel is left out (`preparation_of`).
        tell: Called with a line per case, and with warnings.

    Raises:
        InputError: A file is missing, cannot be used, or is measured only; the lists name no case, or two of the same
            name; or the cache is an experiment's, or another run is writing to it.
    """
    preprocessing = replace(preprocessing, kernel_voxels=1.0)
    jobs = list(_jobs(config, data_dir=data_dir, recipe=preprocessing))
    _check_names([job.name for job in jobs])
    _warn_unknown_weak(config.labelled, data_dir=data_dir, tell=tell)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with run_lock(cache_dir):
        refuse_cases_with("recipe", cache_dir=cache_dir, whose="an experiment's recipe")
        for job in jobs:
            tell(f"{job.name}: {_prepare_one(job, cache_dir=cache_dir, preprocessing=preprocessing)}")
        _remove_others(cache_dir, wanted={job.name for job in jobs}, tell=tell)


def _check_names(names: list[str]) -> None:
    if not names:
        raise InputError("the settings name no case to learn from: add some under data")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{names.count(twice[0])} cases of the settings are named '{twice[0]}', and would replace each other: "
            "rename the files, or take one out of the data lists"
        )


def _warn_unknown_weak(labelled: LabelledCases | None, *, data_dir: Path, tell: Callable[[str], object]) -> None:
    if labelled is None:
        return
    root = data_dir / labelled.folder
    for name in labelled.weak:
        if not (root / name).is_dir():
            tell(f"warning: data.labelled.weak names '{name}', which is not in {root}")


def _remove_others(cache_dir: Path, *, wanted: set[str], tell: Callable[[str], object]) -> None:
    for path in case_files(cache_dir):
        if path.stem not in wanted:
            # `fit` trains on every file of the cache. This command removes only those that it wrote itself.
            if not key_of(path):
                raise InputError(f"{path}: not written by 'prepare': move it away, 'fit' would train on it")
            path.unlink()
            tell(f"{path.stem}: removed, not in the settings any more")


def _prepare_one(job: _Job, *, cache_dir: Path, preprocessing: PreprocessingRecipe) -> str:
    path = cache_dir / f"{job.name}.npz"
    text = json.dumps([VERSION, preprocessing.to_dict(), job.depends_on], sort_keys=True)
    key = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    if key_of(path) == key:
        cached = read_case(path)
        if cached.weight != job.weight:
            write_case(path, replace(cached, weight=job.weight))
        return "already prepared"
    hu, codes = job.build()
    preparation = preparation_of(preprocessing)
    case = CachedCase(hu_kji=hu, codes_kji=codes, weight=job.weight, key=key, preprocessing=preparation)
    write_case(path, case)
    shares = np.bincount(codes.ravel(), minlength=len(Code)) / codes.size
    return f"{'x'.join(map(str, hu.shape))}, " + ", ".join(f"{c.name.lower()} {100 * shares[c]:.1f} %" for c in Code)


def _jobs(config: DataConfig, *, data_dir: Path, recipe: PreprocessingRecipe) -> Iterator[_Job]:
    if config.labelled is not None:
        yield from _labelled_jobs(config.labelled, data_dir=data_dir, recipe=recipe)
    for chest in config.whole_chests:
        yield _chest_job(chest, data_dir=data_dir, recipe=recipe)
    for mask in config.lungs:
        yield _lung_job(mask, data_dir=data_dir, recipe=recipe)
    for n in range(config.phantoms.count):
        yield _phantom_job(n, first_seed=config.phantoms.first_seed, weight=config.phantoms.weight, recipe=recipe)


def _labelled_jobs(labelled: LabelledCases, *, data_dir: Path, recipe: PreprocessingRecipe) -> Iterator[_Job]:
    for folder in labelled_folders(labelled, data_dir=data_dir):
        weak = folder.name in labelled.weak
        files = [folder / "imaging.nii.gz", folder / "segmentation.nii.gz", *folder.glob("valid.nii.gz")]
        yield _Job(
            name=folder.name,
            weight=labelled.weak_weight if weak else labelled.weight,
            depends_on={"kind": "labelled", "weak": weak, "files": _fingerprints(files)},
            build=partial(build_labelled, folder, recipe=recipe, weak=weak),
        )


def build_labelled(folder: Path, *, recipe: PreprocessingRecipe, weak: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and codes of a labelled case; the codes are unknown wherever the image is.

    Raises:
        InputError: A file cannot be read, lies on another grid, or labels nothing.
    """
    hu, network_input, geometry = _on_network_grid(folder / "imaging.nii.gz", recipe=recipe)
    labels = read_segmentation(folder / "segmentation.nii.gz", geometry=geometry)
    _refuse_no_lung(labels, path=folder / "segmentation.nii.gz")
    valid = read_known(folder, geometry=geometry)
    codes = labels_on_network_grid(labels, network_input=network_input, classes=len(Label))
    if valid is not None:
        share = share_on_network_grid(network_input.orientation.view(valid), network_input=network_input)
        codes[share < KNOWN_SHARE] = Code.UNKNOWN
    if weak:
        codes[(codes == Code.BACKGROUND) & (hu < MAYBE_LUNG_BELOW_HU)] = Code.UNKNOWN
    return hu, codes


def _chest_job(chest: WholeChest, *, data_dir: Path, recipe: PreprocessingRecipe) -> _Job:
    refuse_measured_only(Path(chest.path))
    path = data_dir / chest.path

    def build() -> tuple[np.ndarray, np.ndarray]:
        hu, network_input, _ = _on_network_grid(path, recipe=recipe)
        try:
            codes = whole_chest_codes(
                hu,
                inside_kji=network_input.inside_kji,
                spacing_kji_mm=network_input.spacing_kji_mm,
                diseased=chest.diseased,
            )
        except InputError as error:
            raise InputError(f"{path}: {error}; take it out of data.whole_chests") from error
        return hu, codes

    depends_on = {"kind": "chest", "diseased": chest.diseased, "files": _fingerprints([path])}
    return _Job(case_name(path), chest.weight, depends_on, build)


def _lung_job(mask: LungMask, *, data_dir: Path, recipe: PreprocessingRecipe) -> _Job:
    refuse_measured_only(Path(mask.path))
    image, lungs = data_dir / mask.path / "imaging.nii.gz", data_dir / mask.path / "lungs.nii.gz"

    def build() -> tuple[np.ndarray, np.ndarray]:
        hu, network_input, geometry = _on_network_grid(image, recipe=recipe)
        labels = (read_labels(lungs, geometry=geometry) > 0).astype(np.uint8)
        _refuse_no_lung(labels, path=lungs)
        lung = labels_on_network_grid(labels, network_input=network_input, classes=2) > 0
        codes = np.where(lung, Code.RIGHT_LUNG if mask.side == "right" else Code.LEFT_LUNG, Code.BACKGROUND)
        codes[~lung & (hu < OTHER_AIR_BELOW_HU) & network_input.inside_kji] = Code.UNKNOWN
        return hu, codes.astype(np.uint8)

    depends_on = {"kind": "lung", "side": mask.side, "files": _fingerprints([image, lungs])}
    return _Job(case_name(image), mask.weight, depends_on, build)


def _refuse_no_lung(labels_kji: np.ndarray, *, path: Path) -> None:
    """Refuse labels that are all background: not drawn yet, they would teach that there is no lung."""
    if not labels_kji.any():
        raise InputError(f"{path}: labels no lung: every voxel is 0. Draw the labels, or take the case out.")


def _phantom_job(n: int, *, first_seed: int, weight: float, recipe: PreprocessingRecipe) -> _Job:
    seed, findings = first_seed + n, PHANTOM_FINDINGS[n % len(PHANTOM_FINDINGS)]
    return _Job(
        name=f"phantom_{seed}",
        weight=weight,
        depends_on={"kind": "phantom", "seed": seed, "findings": findings},
        build=partial(build_phantom, seed, findings=findings, recipe=recipe),
    )


def build_phantom(seed: int, *, findings: dict[str, Any], recipe: PreprocessingRecipe) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and exact codes of a phantom with a random field of view, pixel size and slice thickness."""
    from CovidSegLib.phantom import make_phantom

    rng = np.random.default_rng(seed)
    pixel_mm, slice_mm = float(rng.uniform(1.0, 2.0)), float(rng.choice([1.5, 2.5, 4.0, 6.0]))
    columns = int(rng.uniform(330, 400) / pixel_mm)
    size_ijk = (columns, int(0.85 * columns), int(rng.uniform(290, 340) / slice_mm))
    phantom = make_phantom(seed=seed, size_ijk=size_ijk, spacing_ijk_mm=(pixel_mm, pixel_mm, slice_mm), **findings)
    network_input = preprocess(phantom.ct.hu_kji, geometry=phantom.ct.geometry, recipe=recipe, crop_to_chest=False)
    codes = labels_on_network_grid(phantom.labelmap_kji, network_input=network_input, classes=len(Label))
    return _rounded_hu(network_input), codes


def _on_network_grid(path: Path, *, recipe: PreprocessingRecipe) -> tuple[np.ndarray, NetworkInput, Geometry]:
    """Return a CT's HU as the product sees them, but of the whole CT; their grid; and the CT's own geometry."""
    ct = to_hounsfield(read_ct(path))
    try:
        network_input = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=recipe, crop_to_chest=False)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return _rounded_hu(network_input), network_input, ct.geometry


def _rounded_hu(network_input: NetworkInput) -> np.ndarray:
    return np.round(network_input.hu_kji).astype(np.int16)


def _fingerprints(paths: list[Path]) -> list[str]:
    return [fingerprint_of(path) for path in paths]
