"""What all tests share: where the real CTs are, and a visible skip where they are not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from CovidSegLib.readers.itk_paths import let_itk_open_any_path

_ROOT = Path(__file__).resolve().parent.parent

# Hypothesis gives an example 0.2 s by default, which says more of the machine than of the code.
if importlib.util.find_spec("hypothesis") is not None:  # Slicer's Python has pytest alone
    from hypothesis import settings

    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")

let_itk_open_any_path()  # as both command lines do, and Slicer

if "slicer" not in sys.modules:
    _slicer = importlib.util.find_spec("slicer")
    if _slicer is not None and _slicer.origin is None:  # the folder Testing/slicer, not Slicer
        sys.modules["slicer"] = None  # type: ignore[assignment]


def _data_dir() -> Path:
    return Path(os.environ.get("COVIDSEG_DATA") or _ROOT.parent / "shared" / "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose needs this machine does not meet, with the reason."""
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("realdata")
    if not (_data_dir() / "ct").is_dir():
        _skip(items, "realdata", f"no real CTs at {_data_dir()} (set COVIDSEG_DATA)")
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda():
        _skip(items, "gpu", "no CUDA device")


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real CTs; a test that asks for it is marked `realdata`, and skipped without them."""
    return _data_dir()
