"""What Slicer's build and Extensions Manager read: file lists, index entry, icons, module card."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "CovidSeg"
EXTENSION = ROOT / "CovidSegExtension"


def listed(variable: str) -> list[str]:
    """Return the files of a `set(...)` in the module's CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    match = re.search(rf"set\({variable}\s+(.*?)\)", text, re.DOTALL)
    assert match is not None, f"{variable} is missing"
    return match.group(1).split()


def present(*folders: str, suffix: str = "") -> set[str]:
    """Return the files in folders of the module, relative to it."""
    return {
        path.relative_to(MODULE).as_posix()
        for folder in folders
        for path in (MODULE / folder).rglob(f"*{suffix}")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_cmake_lists_every_python_file() -> None:
    scripts = listed("MODULE_PYTHON_SCRIPTS")
    assert set(scripts) == {"CovidSeg.py"} | present("CovidSegLib", "Scripts", suffix=".py")
    assert len(scripts) == len(set(scripts))


def test_cmake_lists_every_resource() -> None:
    resources = listed("MODULE_PYTHON_RESOURCES")
    assert set(resources) == present("Resources")
    assert len(resources) == len(set(resources))


def test_index_entry_project_and_icon_have_one_name() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    match = re.search(r"project\((\w+)\)", text)
    assert match is not None
    name = match.group(1)
    assert not name.startswith("Slicer")
    assert (EXTENSION / f"{name}.json").is_file()
    assert f"/CovidSegExtension/{name}.png" in text
    assert (EXTENSION / f"{name}.png").is_file()


@pytest.mark.parametrize("path", [EXTENSION / "CovidSegExtension.png", MODULE / "Resources/Icons/CovidSeg.png"])
def test_icon_is_a_png_of_128_by_128(path: Path) -> None:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (128, 128)


def test_requirements_never_replace_what_slicer_ships() -> None:
    lines = (MODULE / "Resources/requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[<>=! ]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    assert names
    assert not names & {"numpy", "simpleitk", "scipy", "torch", "vtk"}


@pytest.mark.slicer
def test_module_file_imports_nothing_heavy() -> None:
    import subprocess

    pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
    code = (
        "import sys; import slicer; before = set(sys.modules); import CovidSegLib.logic; "
        "print(sorted({'torch', 'monai', 'SimpleITK', 'scipy'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=MODULE, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
