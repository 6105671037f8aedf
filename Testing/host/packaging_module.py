"""`slicer.packaging` and `PyTorchUtils`: nothing is installed, what was asked for is recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class Packages:
    """What is said to be installed, and what was installed.

    Attributes:
        installed: Requirements that were asked to be installed, in this order.
        missing: Names that `pip_check` and `torchInstalled` say are not there; installing removes them.
        fails: An exception that the next installation raises.
        constraints: What the file of constraints of the last installation said; empty without one.
    """

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.missing: set[str] = set()
        self.fails: Exception | None = None
        self.constraints = ""

    def pip_install(
        self,
        requirements: str | list[str],
        constraints: str | Path | None = None,
        no_deps_requirements: str | list[str] | None = None,
        skip_packages: list[str] | None = None,
        blocking: bool = True,
        show_progress: bool = True,
        requester: str | None = None,
        logCallback: Callable[[str], None] | None = None,
        completedCallback: Callable[[int], None] | None = None,
    ) -> None:
        """Record an installation; Slicer refuses a tuple of requirements."""
        if self.fails is not None:
            raise self.fails
        self.constraints = "" if constraints is None else Path(constraints).read_text(encoding="utf-8")
        for requirement in _listed(requirements):
            self.installed.append(requirement)
            self.missing.discard(_name(requirement))

    def old_pip_install(self, requirements: str | list[str]) -> None:
        """Record an installation by `slicer.util.pip_install` as it is in Slicer 5.10: it knows no options."""
        self.pip_install(requirements)

    def pip_check(self, req: Any) -> bool:
        """Return whether all are there."""
        return not any(_name(entry) in self.missing for entry in _listed(req))

    def pip_ensure(
        self,
        requirements: Any,
        constraints: str | Path | None = None,
        skip_packages: list[str] | None = None,
        prompt_install: bool = True,
        prompt_restart: bool = True,
        requester: str | None = None,
        skip_in_testing: bool = True,
        show_progress: bool = True,
    ) -> None:
        """Install what is missing; ask first unless told not to, and install nothing where Slicer tests itself."""
        import slicer

        absent = [entry for entry in _listed(requirements) if _name(entry) in self.missing]
        if not absent or (skip_in_testing and slicer.app.testingEnabled()):
            return
        if prompt_install and not slicer.util.confirmOkCancelDisplay(f"Install {absent}?", requester):
            raise RuntimeError("User declined package installation")
        self.pip_install(absent, constraints=constraints, requester=requester)

    def load_requirements(self, path: Any) -> list[str]:
        """Return the lines of a requirements.txt."""
        lines = [line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line]

    def packaging_module(self) -> ModuleType:
        """Return `slicer.packaging`."""
        module = ModuleType("slicer.packaging", __doc__)
        for function in (self.pip_install, self.pip_check, self.pip_ensure, self.load_requirements):
            setattr(module, function.__name__, function)
        return module

    def torch_module(self) -> ModuleType:
        """Return `PyTorchUtils`, the PyTorch extension's module."""
        packages = self

        class PyTorchUtilsLogic:
            def torchInstalled(self) -> bool:
                """Return whether torch is there."""
                return "torch" not in packages.missing

            def installTorch(
                self,
                askConfirmation: bool = False,
                forceComputationBackend: Any = None,
                torchVersionRequirement: str | None = None,
                torchvisionVersionRequirement: str | None = None,
            ) -> Any:
                """Record the installation of torch."""
                packages.pip_install([f"torch{torchVersionRequirement or ''}"])
                import torch

                return torch

        module = ModuleType("PyTorchUtils")
        module.PyTorchUtilsLogic = PyTorchUtilsLogic
        return module


def _listed(requirements: Any) -> list[str]:
    if not isinstance(requirements, str | list):
        raise TypeError(f"requirements are a text or a list, not {requirements!r}")
    return requirements.split() if isinstance(requirements, str) else [str(entry) for entry in requirements]


def _name(requirement: str) -> str:
    for index, character in enumerate(requirement):
        if character in "<>=!~ [;":
            return requirement[:index].lower()
    return requirement.lower()
