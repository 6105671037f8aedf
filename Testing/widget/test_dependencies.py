"""Packages are fetched only after consent, nothing is replaced, and what counts is what can be imported."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib import dependencies
from CovidSegLib.dependencies import (
    DependencyError,
    Missing,
    check_installed,
    ensure_dependencies,
    find_missing,
    requirements,
)
from CovidSegLib.errors import Cancelled


class FakeInstaller:
    """Records what was asked for; `installs` makes it importable."""

    def __init__(self, computer: FakeComputer) -> None:
        self.computer = computer
        self.torch: list[str] = []
        self.packages: list[tuple[str, ...]] = []
        self.constraints = ""

    def install_torch(self, versions: str) -> None:
        self.torch.append(versions)
        self.computer.versions["torch"] = "2.9.0"

    def install_packages(self, requirements: tuple[str, ...], *, constraints: Path) -> None:
        self.packages.append(requirements)
        self.constraints = constraints.read_text(encoding="utf-8")
        self.computer.versions.update({dependencies._name_of(entry): "1.5.1" for entry in requirements})


class FakeComputer:
    """What is installed, by name; what is broken cannot be imported."""

    def __init__(self, **versions: str) -> None:
        self.versions = versions
        self.broken: set[str] = set()

    def installed(self, name: str) -> str | None:
        return self.versions.get(name)

    def import_module(self, name: str) -> Any:
        if name in self.broken or name not in self.versions:
            raise ImportError(f"No module named '{name}'")
        return types.ModuleType(name)


COMPLETE = {"torch": "2.9.0", "monai": "1.5.1", "safetensors": "0.5.0", "tqdm": "4.66", "numpy": "2.4.0"}


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> FakeComputer:
    made = FakeComputer(**COMPLETE)
    monkeypatch.setattr(dependencies, "_installed", made.installed)
    monkeypatch.setattr(dependencies.importlib, "import_module", made.import_module)
    return made


def never(_: Missing) -> bool:
    raise AssertionError("nobody should be asked")


def test_nothing_is_asked_where_nothing_is_missing(computer: FakeComputer) -> None:
    installer = FakeInstaller(computer)
    ensure_dependencies(installer=installer, ask=never)
    assert not installer.torch and not installer.packages


def test_what_is_missing_is_asked_for_and_installed(computer: FakeComputer) -> None:
    del computer.versions["torch"], computer.versions["monai"]
    installer, asked = FakeInstaller(computer), []
    ensure_dependencies(installer=installer, ask=lambda missing: not asked.append(missing))
    assert asked == [Missing(torch=True, packages=("monai>=1.5,<2",))]
    assert installer.torch == [dependencies.TORCH_VERSIONS]
    assert installer.packages == [("monai>=1.5,<2",)]


def test_no_means_no(computer: FakeComputer) -> None:
    del computer.versions["monai"]
    installer = FakeInstaller(computer)
    with pytest.raises(Cancelled, match="Nothing was installed"):
        ensure_dependencies(installer=installer, ask=lambda _: False)
    assert not installer.torch and not installer.packages


def test_installed_packages_are_held_at_their_versions(computer: FakeComputer) -> None:
    del computer.versions["monai"]
    computer.versions["SimpleITK"] = "2.5.0"
    installer = FakeInstaller(computer)
    ensure_dependencies(installer=installer, ask=lambda _: True)
    held = set(installer.constraints.split())
    assert held == {"numpy==2.4.0", "SimpleITK==2.5.0", "torch==2.9.0"}


def test_old_torch_is_never_replaced_but_told(computer: FakeComputer) -> None:
    computer.versions["torch"] = "2.1.0"
    with pytest.raises(DependencyError, match=r"torch 2\.1\.0 is installed.*replaces nothing"):
        ensure_dependencies(installer=FakeInstaller(computer), ask=never)


@pytest.mark.parametrize("torch", [None, "2.2.2"])
def test_slicer_for_intel_macs_has_no_torch_that_could_be_installed(
    computer: FakeComputer, monkeypatch: pytest.MonkeyPatch, torch: str | None
) -> None:
    monkeypatch.setattr(dependencies.sys, "platform", "darwin")
    monkeypatch.setattr(dependencies.platform, "machine", lambda: "x86_64")
    find_missing()  # whoever built a newer torch may use it
    del computer.versions["torch"]
    if torch:
        computer.versions["torch"] = torch
    expected = r"PyTorch for them ends with 2\.2\.2.*Run 'covidseg segment' outside Slicer"
    with pytest.raises(DependencyError, match=expected):
        ensure_dependencies(installer=FakeInstaller(computer), ask=never)
    monkeypatch.setattr(dependencies.platform, "machine", lambda: "arm64")
    if torch is None:
        assert find_missing().torch


def test_old_package_counts_as_missing(computer: FakeComputer) -> None:
    computer.versions["monai"] = "1.2.0"
    assert find_missing() == Missing(torch=False, packages=("monai>=1.5,<2",))


def test_installation_that_did_nothing_is_found_out_by_importing(computer: FakeComputer) -> None:
    """Where Slicer runs its tests, packages are skipped without a word."""
    del computer.versions["monai"]
    installer = FakeInstaller(computer)
    installer.install_packages = lambda *_, **__: None  # type: ignore[method-assign]
    with pytest.raises(DependencyError, match="monai was not installed"):
        ensure_dependencies(installer=installer, ask=lambda _: True)


def test_installation_that_fails_says_what_to_do(computer: FakeComputer) -> None:
    import subprocess

    def fail(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, ["PythonSlicer", "-m", "pip", "install"])

    del computer.versions["torch"], computer.versions["monai"]
    installer = FakeInstaller(computer)
    installer.install_torch = installer.install_packages = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(DependencyError, match=r"torch could not be installed .* the Python console shows"):
        ensure_dependencies(installer=installer, ask=lambda _: True)
    computer.versions["torch"] = "2.9.0"
    expected = r"monai>=1\.5,<2 could not be installed \(the installer ended with code 1\)\. Check the connection"
    with pytest.raises(DependencyError, match=expected):
        ensure_dependencies(installer=installer, ask=lambda _: True)


def test_no_to_the_extensions_own_question_is_no_failure(computer: FakeComputer) -> None:
    def refuse(*_: Any) -> None:
        raise Cancelled("torch was not installed")

    del computer.versions["torch"]
    installer = FakeInstaller(computer)
    installer.install_torch = refuse  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        ensure_dependencies(installer=installer, ask=lambda _: True)


def test_script_is_told_what_is_missing_and_where_to_get_it(computer: FakeComputer) -> None:
    check_installed()
    del computer.versions["torch"], computer.versions["safetensors"]
    expected = r"^torch, safetensors: not installed.* Open the module CovidSeg, press Segment once and agree\.$"
    with pytest.raises(DependencyError, match=expected):
        check_installed()


def test_script_is_told_of_a_torch_that_is_too_old(computer: FakeComputer) -> None:
    computer.versions["torch"] = "2.1.0"
    with pytest.raises(DependencyError, match=r"torch 2\.1\.0 is installed"):
        check_installed()


def test_package_that_does_not_work_is_told(computer: FakeComputer) -> None:
    del computer.versions["torch"]
    computer.broken.add("torch")
    with pytest.raises(DependencyError, match="torch was not installed, or does not work"):
        ensure_dependencies(installer=FakeInstaller(computer), ask=lambda _: True)


def test_requirements_are_those_of_the_module() -> None:
    assert [line.split(">")[0] for line in requirements()] == ["monai", "safetensors", "tqdm"]


def test_what_is_installed_here_is_found_without_importing_it() -> None:
    """The real look-up, in a fresh interpreter."""
    import subprocess

    code = (
        "import sys; from CovidSegLib.dependencies import find_missing; missing = find_missing(); "
        "assert not missing, missing; print(sorted({'torch', 'monai', 'safetensors'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2] / "CovidSeg"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metadata_without_a_package_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    assert dependencies._installed("a_package_that_is_nowhere") is None


@pytest.mark.slicer
def test_slicer_5_12_and_later_install_through_its_packaging(host: Any) -> None:
    host.packages.missing = {"monai"}
    with dependencies._constraints_file() as path:
        dependencies.SlicerInstaller().install_packages(("monai>=1.5,<2",), constraints=path)
    assert host.packages.installed == ["monai>=1.5,<2"]
    assert "numpy==" in host.packages.constraints


@pytest.mark.slicer
def test_slicer_5_10_installs_by_pip_with_the_constraints(tmp_path: Path) -> None:
    pytest.importorskip("PySide6", reason="needs PySide6: pip install 'covidseg[dev]'")
    pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
    from standin import Host

    host = Host(tmp_path, version="5.10.0").start()
    try:
        with dependencies._constraints_file() as path:
            dependencies.SlicerInstaller().install_packages(("monai>=1.5,<2",), constraints=path)
        assert host.packages.installed == ["--constraint", str(path), "monai>=1.5,<2"]
    finally:
        host.stop()


@pytest.mark.slicer
def test_without_the_pytorch_extension_the_way_to_it_is_told(host: Any) -> None:
    with pytest.raises(DependencyError, match="Open the Extensions Manager, install the extension PyTorch"):
        dependencies.SlicerInstaller().install_torch(">=2.8")


@pytest.mark.slicer
@pytest.mark.parametrize("agreed", [True, False])
def test_torch_comes_by_the_pytorch_extension(host: Any, monkeypatch: pytest.MonkeyPatch, agreed: bool) -> None:
    asked: list[dict[str, Any]] = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> Any:  # noqa: N802
            asked.append(options)
            return object() if agreed else None

    extension = types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    if agreed:
        dependencies.SlicerInstaller().install_torch(">=2.8,<3")
    else:
        with pytest.raises(Cancelled):
            dependencies.SlicerInstaller().install_torch(">=2.8,<3")
    assert asked == [{"askConfirmation": True, "torchVersionRequirement": ">=2.8,<3"}]


def test_question_says_what_why_and_how_large(host: Any) -> None:
    from CovidSegLib.panel.consent import consent_text

    text = consent_text(Missing(torch=True, packages=("monai>=1.5,<2",)))
    for part in (
        "PyTorch, which runs the network",
        "0.2 GB",
        "2 to 3 GB",
        "monai>=1.5,<2",
        "not replaced",
        "Install now?",
    ):
        assert part in text
    assert "PyTorch" not in consent_text(Missing(torch=False, packages=("tqdm>=4",)))
