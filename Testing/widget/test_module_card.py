"""The module as Slicer lists it, its self test, and what it does not do at start-up."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slicer

MODULE_FILE = Path(__file__).resolve().parents[2] / "CovidSeg" / "CovidSeg.py"


def test_card_says_what_it_is_and_not_for_clinical_use(host: Any) -> None:
    from application import ModuleCard

    parent = ModuleCard(str(MODULE_FILE))
    importlib.import_module("CovidSeg").CovidSeg(parent)
    assert parent.title == "CovidSeg"
    assert parent.categories == ["Segmentation"]
    assert "Not for clinical use" in parent.helpText
    assert "docs/user-guide.md" in parent.helpText, "where to read more"
    assert "Informatics in Medicine Unlocked" in parent.acknowledgementText
    assert parent.contributors
    assert not parent.hidden, "the module is offered in the module list"


def test_self_test_passes_on_the_host(host: Any) -> None:
    importlib.import_module("CovidSeg").CovidSegTest().runTest()


def test_opening_the_panel_imports_neither_torch_nor_monai(tmp_path: Path) -> None:
    """In a fresh interpreter: module, panel, enter."""
    pytest.importorskip("PySide6", reason="needs PySide6: pip install 'covidseg[dev]'")
    root = MODULE_FILE.parents[1]
    code = (
        "import sys, pathlib; from standin import Host; host = Host(pathlib.Path(sys.argv[1])).start(); "
        "host.open_panel(); heavy = {'torch', 'monai', 'SimpleITK', 'safetensors'}; "
        "print(sorted(heavy & set(sys.modules))); host.stop()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root / "CovidSeg"), str(root / "Testing" / "host")]),
            "QT_QPA_PLATFORM": "offscreen",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stderr


def test_module_file_stays_thin() -> None:
    assert len(MODULE_FILE.read_text(encoding="utf-8").splitlines()) < 150
