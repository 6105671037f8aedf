"""Checkpoints of a training: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from CovidSegLib.cases.folder import replace_file
from CovidSegLib.errors import ModelError

from .whole_files import whole_file


def read_state(
    path: Path, *, remedy: str, missing: str = "run 'covidseg-train fit' first", needed: str = "network"
) -> dict[str, Any]:
    """Return the contents of a checkpoint, with all tensors on the CPU; `load_state_dict` moves them where they belong.

    Loading onto a GPU would put Adam's step counters there, where every batch would wait for each of them, and an error
    for lack of GPU memory would be mistaken for a damaged file.

    Args:
        path: The checkpoint.
        remedy: What to do if it is damaged, for the error.
        missing: What to do if it is not there, for the error.
        needed: What tells it from other files of torch: weights alone have no "optimizer".

    Raises:
        ModelError: It is missing or damaged, or lacks what is needed.
    """
    import pickle
    import zipfile

    import torch

    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: not there; {missing}") from error
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise ModelError(f"{path}: damaged; {remedy}") from error
    if not isinstance(state, dict) or needed not in state:
        raise ModelError(f"{path}: no checkpoint; {remedy}")
    return state


def write_state(path: Path, state: Mapping[str, Any], *, keep_as: Path | None = None) -> None:
    """Write a checkpoint whole or not at all; `keep_as` is where the file that it replaces is kept.

    Raises:
        OSError: The disk is full, for instance.
    """
    import torch

    # In memory first, because torch does not report a full disk as such.
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    with whole_file(path) as aside:
        with aside.open("wb") as file:
            file.write(stream.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            replace_file(path, keep_as)


def _check_sums(path: Path) -> None:
    """Verify the checksums in a checkpoint, which torch writes but does not check when it loads one."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"checksum of {part}")
