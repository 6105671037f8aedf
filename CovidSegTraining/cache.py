"""Prepared cases on disk: one `.npz` per case, on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from CovidSegLib.errors import InputError

from .whole_files import whole_file


@dataclass(frozen=True)
class CachedCase:
    """A prepared case.

    Attributes:
        hu_kji: (k, j, i) int16 HU along the patient's axes.
        codes_kji: (k, j, i) uint8 of `Code`: what the network is taught.
        weight: How often the case is drawn, relative to the others.
        key: Fingerprint of file and recipe it was made from; empty if unknown.
        partial_kji: The codes before the network's own prediction was added, None if it was not.
        labelled_by: SHA-256 of the weights whose prediction was added; empty if none was.
    """

    hu_kji: np.ndarray
    codes_kji: np.ndarray
    weight: float
    key: str = ""
    partial_kji: np.ndarray | None = field(default=None)
    labelled_by: str = ""


def read_case(path: Path) -> CachedCase:
    """Return a prepared case.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        with np.load(path) as data:
            return CachedCase(
                hu_kji=data["hu"],
                codes_kji=data["codes"],
                weight=float(data["weight"]),
                key=str(data["key"]) if "key" in data else "",
                partial_kji=data.get("partial"),
                labelled_by=str(data["labelled_by"]) if "labelled_by" in data else "",
            )
    except FileNotFoundError as error:
        raise InputError(f"{path}: not prepared; run 'covidseg-train prepare' first") from error
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run 'covidseg-train prepare' again") from error


def key_of(path: Path) -> str:
    """Return the key of a prepared case without reading its arrays; empty if there is none."""
    try:
        with np.load(path) as data:
            return str(data["key"]) if "key" in data else ""
    except (OSError, ValueError, EOFError):
        return ""


def write_case(path: Path, case: CachedCase) -> None:
    """Write a prepared case, whole or not at all."""
    arrays: dict[str, np.ndarray] = {
        "hu": np.round(case.hu_kji).astype(np.int16),
        "codes": case.codes_kji.astype(np.uint8),
        "weight": np.float64(case.weight),  # type: ignore[dict-item]
        "key": np.array(case.key),
        "labelled_by": np.array(case.labelled_by),
    }
    if case.partial_kji is not None:
        arrays["partial"] = case.partial_kji.astype(np.uint8)
    with whole_file(path) as aside, aside.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
