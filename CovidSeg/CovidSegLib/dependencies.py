"""Install the packages that Slicer lacks (torch, MONAI and two small ones), after the user has agreed.

torch comes through the PyTorch extension, which knows the computer's GPU; the others through `slicer.packaging` (5.12
and later) or `slicer.util.pip_install`. Installed packages are pinned to their versions, so that none is ever replaced.
In its test mode Slicer silently installs nothing, so that only an import tells whether an installation succeeded.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import Cancelled, CovidSegError
from .resources import resource_path
from .scenes.texts import tr as _

TORCH_VERSIONS = ">=2.8,<3"
#: Packages that an installation must not replace, if they are installed.
HELD_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch", "torchvision", "vtk", "itk")

#: What the engine imports while it runs.
RUN_WITH = ("torch", "monai.inferers", "safetensors.torch", "scipy.ndimage", "SimpleITK")


class DependencyError(CovidSegError):
    """A package that the network needs is missing or too old."""


@dataclass(frozen=True)
class Missing:
    """What has to be installed before the network can run.

    Attributes:
        torch: Whether torch is missing.
        packages: The others, as requirements, e.g. "monai>=1.5,<2".
    """

    torch: bool
    packages: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.torch or bool(self.packages)


class Installer(Protocol):
    """Installs packages; `SlicerInstaller` in the application, a stand-in in tests."""

    def install_torch(self, versions: str) -> None: ...

    def install_packages(self, requirements: tuple[str, ...], *, constraints: Path) -> None: ...


def ensure_dependencies(*, installer: Installer, ask: Callable[[Missing], bool]) -> None:
    """Make sure that the network can run; ask first if anything has to be installed.

    Args:
        installer: Installs what is missing.
        ask: Gets what is missing, and returns whether the user agrees.

    Raises:
        Cancelled: The user said no.
        DependencyError: torch is there but too old, the installation failed, or a package is still missing afterwards.
    """
    missing = find_missing()
    if not missing:
        return
    if not ask(missing):
        raise Cancelled(_("Nothing was installed. CovidSeg cannot segment without these packages."))
    if missing.torch:
        with _failure_explained("torch"):
            installer.install_torch(TORCH_VERSIONS)
    if missing.packages:
        with _failure_explained(", ".join(missing.packages)), _constraints_file() as path:
            installer.install_packages(missing.packages, constraints=path)
    importlib.invalidate_caches()
    _check_imports(missing)


def load_packages() -> None:
    """Import the packages of the network; to be called on the main thread, before another thread needs them.

    When torch was first imported on another thread, beside imports on the main thread, the whole program crashed.

    Raises:
        DependencyError: A package is missing or does not work.
    """
    for name in RUN_WITH:
        _import(name)


def check_installed() -> None:
    """Raise if a package is missing; for scripts, which cannot ask the user as the panel does.

    Raises:
        DependencyError: What is missing and how to get it, or torch is there but too old.
    """
    missing = find_missing()
    if missing:
        names = ", ".join((["torch"] if missing.torch else []) + [_name_of(entry) for entry in missing.packages])
        text = _("{names}: not installed, or too old. Open the module CovidSeg, press Segment once and agree.")
        raise DependencyError(text.format(names=names))


def find_missing() -> Missing:
    """Return what is missing, without importing anything.

    Raises:
        DependencyError: The installed torch cannot be used, or no usable one exists for this computer.
    """
    torch_version = _installed("torch")
    fits = torch_version is not None and _satisfies(torch_version, f"torch{TORCH_VERSIONS}")
    if not fits and _is_intel_build_for_mac():
        text = _(
            "This Slicer is built for Intel processors (on a Mac with an Apple processor it runs translated), and "
            "PyTorch for them ends with 2.2.2: CovidSeg, which needs torch {versions}, cannot segment here. Run "
            "'covidseg segment' outside Slicer, and open its segmentation.seg.nrrd here beside the CT."
        )
        raise DependencyError(text.format(versions=TORCH_VERSIONS))
    if torch_version is not None and not fits:
        text = _(
            "torch {version} is installed, and CovidSeg needs torch {versions}. CovidSeg replaces nothing "
            "that other modules may rely on: change the version in the module PyTorch Utils, and restart Slicer."
        )
        raise DependencyError(text.format(version=torch_version, versions=TORCH_VERSIONS))
    needed = []
    for requirement in requirements():
        version = _installed(_name_of(requirement))
        if version is None or not _satisfies(version, requirement):
            needed.append(requirement)
    return Missing(torch=torch_version is None, packages=tuple(needed))


def requirements() -> tuple[str, ...]:
    """Return the lines of Resources/requirements.txt."""
    lines = resource_path("requirements.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


class SlicerInstaller:
    """Installs into the Slicer application; on the main thread, because Slicer shows windows."""

    def install_torch(self, versions: str) -> None:
        """Install torch with the PyTorch extension.

        Raises:
            Cancelled: The user said no to the extension's own question.
            DependencyError: The extension is not installed.
        """
        try:
            utils = importlib.import_module("PyTorchUtils")
        except ImportError as error:
            text = _(
                "The PyTorch extension is needed to install torch. Open the Extensions Manager, install the extension "
                "PyTorch, restart Slicer, and try again."
            )
            raise DependencyError(text) from error
        if utils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=versions) is None:
            raise Cancelled(_("torch was not installed. CovidSeg cannot segment without it."))

    def install_packages(self, requirements: tuple[str, ...], *, constraints: Path) -> None:
        """Install packages with pip into Slicer's Python; the user has already agreed."""
        packaging = _slicer_packaging()
        if packaging is not None:
            packaging.pip_ensure(
                list(requirements), constraints=constraints, prompt_install=False, requester="CovidSeg"
            )
            return
        import slicer

        slicer.util.pip_install(["--constraint", str(constraints), *requirements])


def _slicer_packaging() -> Any:
    """Return `slicer.packaging`, or None before Slicer 5.12."""
    try:
        return importlib.import_module("slicer.packaging")
    except ImportError:
        return None


@contextmanager
def _failure_explained(names: str) -> Iterator[None]:
    """Turn any error of an installation into one that says what to do.

    Raises:
        DependencyError: The installation failed; the reason is in pip's output on the console, not in its error.
    """
    try:
        yield
    except CovidSegError:
        raise
    except Exception as error:  # anything: pip failed, there is no pip, or the package does not load
        text = _(
            "{names} could not be installed ({reason}). Check the connection to the internet and the room on the disk, "
            "and try again; the Python console shows what pip said."
        )
        raise DependencyError(text.format(names=names, reason=_short(error))) from error


def _short(error: Exception) -> str:
    """Return an error in a few words; that of a failed command would repeat the whole command."""
    code = getattr(error, "returncode", None)
    return str(error) if code is None else _("the installer ended with code {code}").format(code=code)


def _check_imports(missing: Missing) -> None:
    """Import the packages that were missing.

    Raises:
        DependencyError: It is still missing, or does not work.
    """
    names = (["torch"] if missing.torch else []) + [_name_of(requirement) for requirement in missing.packages]
    for name in names:
        _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation raises anything, OSError of a missing library too
        text = _(
            "{name} was not installed, or does not work ({reason}). Restart Slicer and try again; "
            "the Python console shows what pip said."
        )
        raise DependencyError(text.format(name=name, reason=error)) from error


def _is_intel_build_for_mac() -> bool:
    return sys.platform == "darwin" and platform.machine() == "x86_64"


@contextmanager
def _constraints_file() -> Iterator[Path]:
    """Yield a constraints file for pip that pins `HELD_PACKAGES` to their installed versions."""
    lines = [f"{name}=={version}" for name in HELD_PACKAGES if (version := _installed(name)) is not None]
    with tempfile.TemporaryDirectory(prefix="covidseg-") as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield path


def _installed(name: str) -> str | None:
    """Return the version of a package that is installed and can be found for import, else None."""
    try:
        version = importlib.metadata.version(name)
        return version if importlib.util.find_spec(name) is not None else None
    except (importlib.metadata.PackageNotFoundError, ImportError, ValueError):
        return None


def _name_of(requirement: str) -> str:
    return str(_requirement(requirement).name)


def _satisfies(version: str, requirement: str) -> bool:
    return bool(_requirement(requirement).specifier.contains(version, prereleases=True))


def _requirement(text: str) -> Any:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # pip, which is always there, carries a copy
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[import-untyped, assignment]
    return Requirement(text)
