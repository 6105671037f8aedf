"""The wheel, installed in a clean environment, has bundle, terminology and CovidSegTraining, and works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from CovidSegLib.phantom import make_phantom
from CovidSegLib.resources import resource_path
from helpers_cli import CASE_FILES, ROOT, summary

pytest.importorskip("setuptools")

_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
_BUNDLES = ROOT / "CovidSeg" / "Resources" / "Models"


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        list(map(str, command)), cwd=cwd, env=_ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what it is made of, so that no build folder is left in the tree."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    (source / "README.md").touch()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("CovidSeg", "CovidSegTraining"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--disable-pip-version-check", "-w", target, source),
        cwd=target,
    )
    (built,) = target.glob("covidseg-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a clean environment that borrows the dependencies of this one; return its programs.

    Only the dependencies: this environment's own CovidSeg, installed as editable, hooks in by a
    `.pth` file, and such files are not read in a folder that is itself named in one.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip())
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"),
        *("--disable-pip-version-check", wheel),
        cwd=folder,
    )
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_wheel_holds_every_resource_and_configuration(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    resources = {
        "CovidSegLib/Resources/" + path.relative_to(ROOT / "CovidSeg" / "Resources").as_posix()
        for path in (ROOT / "CovidSeg" / "Resources").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    module = ROOT / "CovidSeg"
    modules = {path.relative_to(module).as_posix() for path in (module / "CovidSegLib").rglob("*.py")}
    training = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "configs/*.yaml")
        for path in (ROOT / "CovidSegTraining").rglob(pattern)
    }
    assert resources
    assert modules
    assert training
    assert packed >= resources | modules | training
    assert not {name for name in packed if name.startswith(("Testing", "build"))}


def test_installed_package_is_the_wheel_and_finds_its_terminology(installed: Path, tmp_path: Path) -> None:
    code = (
        "import CovidSegLib, CovidSegTraining\n"
        "from CovidSegLib.resources import resource_path\n"
        "print(CovidSegLib.__file__, CovidSegTraining.__file__, resource_path('Terminology'), sep='\\n')"
    )
    paths = _run(installed / "python", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert all(str(installed.parent) in path for path in paths)
    names = {path.name for path in Path(paths[2]).iterdir()}
    assert names >= {path.name for path in resource_path("Terminology").iterdir() if path.suffix == ".json"}


def test_reserved_and_help_work_as_installed_programs(installed: Path, tmp_path: Path) -> None:
    assert "covidseg segment" in _run(installed / "covidseg", "segment", "--help", cwd=tmp_path).stdout
    refused = subprocess.run([installed / "covidseg", "watch"], env=_ENVIRONMENT, capture_output=True, check=False)
    assert refused.returncode == 2


@pytest.mark.skipif(not list(_BUNDLES.glob("*/configs/metadata.json")), reason="no model bundle is in the tree yet")
def test_info_and_a_tiny_segment_run_as_installed(installed: Path, tmp_path: Path) -> None:
    import SimpleITK

    info = _run(installed / "covidseg", "info", cwd=tmp_path).stdout
    assert "covidseg" in info
    assert str(installed.parent) in info
    assert any(f"computed on this CPU in: {name}\n" in info for name in ("int8", "bfloat16", "float32"))
    phantom = make_phantom(seed=3, size_ijk=(96, 80, 48), spacing_ijk_mm=(3.8, 3.8, 6.4), infection_percent=20.0)
    ct = tmp_path / "tiny.nii.gz"
    SimpleITK.WriteImage(phantom.ct.geometry.to_sitk(phantom.ct.hu_kji), str(ct))
    _run(
        installed / "covidseg", "segment", ct, "-o", tmp_path / "out", "--mode", "fast", "--device", "cpu", cwd=tmp_path
    )
    assert {path.name for path in (tmp_path / "out" / "tiny").iterdir()} == CASE_FILES
    assert summary(tmp_path / "out")[0]["status"] == "done"
    report = json.loads((tmp_path / "out" / "tiny" / "report.json").read_text())
    assert report["regions"]["lungs"]["volume_ml"] == pytest.approx(phantom.truth.lung_ml, rel=0.2)
