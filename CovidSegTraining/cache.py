"""Prepared cases on disk: one `.npz` per case, on the network's grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from CovidSegLib.errors import InputError
from CovidSegLib.preprocess import PreprocessingRecipe

from .whole_files import DAMAGED_NPZ, whole_file

#: Packed HU are rounded to multiples of this step, a ninth of the noise that training adds, and clipped to this range,
#: which leaves room around the network's window for the gains and offsets of training.
PACKED_STEP_HU = 10
PACKED_HU = (-1500, 500)


@dataclass(frozen=True)
class CachedCase:
    """A prepared case.

    Attributes:
        hu_kji: (k, j, i) int16 HU along the patient's axes.
        codes_kji: (k, j, i) uint8 of `Code`: what the network is taught.
        weight: How often the case is drawn, relative to the others.
        key: Fingerprint of the files and the recipe it was made from; empty if unknown.
        partial_kji: The codes before a network's prediction was added (`pseudo`); None if none was.
        labelled_by: SHA-256 of the weights whose prediction was added; empty if none was.
        preprocessing: The preprocessing it was prepared with, as JSON (`preparation_of`); empty if unknown.
    """

    hu_kji: np.ndarray
    codes_kji: np.ndarray
    weight: float
    key: str = ""
    partial_kji: np.ndarray | None = None
    labelled_by: str = ""
    preprocessing: str = ""


def preparation_of(preprocessing: PreprocessingRecipe) -> str:
    """Return the part of a preprocessing that cases are prepared with, as JSON.

    That is everything but the wide kernel: cases are kept sharp, because the interpolation of random patches blurs them
    about as much as the kernel would.
    """
    values = preprocessing.to_dict()
    del values["kernel_voxels"]
    return json.dumps(values, sort_keys=True)


def read_case(path: Path) -> CachedCase:
    """Return a prepared case.

    Raises:
        InputError: The file is missing or damaged, or is not of the product's training.
    """
    try:
        with np.load(path) as data:
            return CachedCase(
                hu_kji=data["hu"],
                codes_kji=data["codes"],
                weight=float(data["weight"]),
                key=str(data.get("key", "")),
                partial_kji=data.get("partial"),
                labelled_by=str(data.get("labelled_by", "")),
                preprocessing=str(data.get("preprocessing", "")),
            )
    except FileNotFoundError as error:
        raise InputError(f"{path}: not prepared; run 'covidseg-train prepare' first") from error
    except KeyError as error:
        raise InputError(
            f"{path}: not prepared by a recipe of the product ({error}); "
            "give the --config it was prepared with, or the cache of this one"
        ) from error
    except PermissionError:
        raise  # nothing is damaged
    except DAMAGED_NPZ as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run 'covidseg-train prepare' again") from error


def case_files(folder: Path) -> list[Path]:
    """Return the files of a folder's prepared cases, sorted; macOS's hidden companions of files are left out."""
    return sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))


def key_of(path: Path) -> str:
    """Return the key of a prepared case without reading its arrays; empty if the file is missing or has no key."""
    try:
        with np.load(path) as data:
            return str(data.get("key", ""))
    except DAMAGED_NPZ:
        return ""


def refuse_cases_with(entry: str, *, cache_dir: Path, whose: str) -> None:
    """Make sure that no case of the other kind of training is replaced or removed in a cache.

    Args:
        cache_dir: The cache; damaged files in it are let pass.
        entry: What only the other kind's files hold: "hu" those of the product, "recipe" those of an experiment.
        whose: Recipe of the other kind, for the error.

    Raises:
        InputError: There is one.
    """
    for path in case_files(cache_dir):
        try:
            with np.load(path) as data:
                found = entry in data
        except DAMAGED_NPZ:
            continue
        if found:
            raise InputError(
                f"{path}: prepared by {whose}, which needs a cache of its own: choose another folder, or give the "
                "--config it was prepared with"
            )


def pack_cases(cache_dir: Path, packed_dir: Path, *, tell: Callable[[str], object]) -> None:
    """Write all prepared cases of a folder to another one, at about a tenth of the size, to carry to another machine.

    HU are rounded, the labels from before self-training are left out, and everything is compressed. The packed folder
    can be trained on; `prepare` and `pseudo` need the original.

    Args:
        cache_dir: Written by `prepare`.
        packed_dir: Made if need be; files of the same names are replaced, others are not expected there.
        tell: Called with a line per case.

    Raises:
        InputError: There are no cases, one is damaged, or both folders are the same; or the packed folder holds a
            case that the cache does not have.
    """
    if packed_dir.resolve() == cache_dir.resolve():
        raise InputError(f"{packed_dir}: packed cases would replace the originals; choose another folder (-o)")
    paths = case_files(cache_dir)
    if not paths:
        raise InputError(f"no prepared cases in {cache_dir}: run 'covidseg-train prepare' first")
    names = {path.name for path in paths}
    if others := [path for path in case_files(packed_dir) if path.name not in names]:
        raise InputError(
            f"{others[0]}: not a case of {cache_dir}, and 'fit' would train on it: delete it, or choose another folder "
            "(-o)"
        )
    for path in paths:
        case = read_case(path)
        rounded = np.clip(np.rint(case.hu_kji / PACKED_STEP_HU) * PACKED_STEP_HU, *PACKED_HU)
        target = packed_dir / path.name
        write_case(target, replace(case, hu_kji=rounded, partial_kji=None), compressed=True)
        tell(f"{path.stem}: {path.stat().st_size / 2**20:.1f} -> {target.stat().st_size / 2**20:.1f} MiB")


def write_case(path: Path, case: CachedCase, *, compressed: bool = False) -> None:
    """Write a prepared case, whole or not at all."""
    arrays: dict[str, np.ndarray] = {
        "hu": np.round(case.hu_kji).astype(np.int16),
        "codes": case.codes_kji.astype(np.uint8),
        "weight": np.array(case.weight, dtype=np.float64),
        "key": np.array(case.key),
        "labelled_by": np.array(case.labelled_by),
        "preprocessing": np.array(case.preprocessing),
    }
    if case.partial_kji is not None:
        arrays["partial"] = case.partial_kji.astype(np.uint8)
    with whole_file(path) as aside, aside.open("wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **arrays)  # type: ignore[arg-type]
