"""`slicer.packaging` and `PyTorchUtils`: nothing is installed, what was asked for is recorded."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any


class Packages:
    """What is said to be installed, and what was installed.

    Attributes:
        installed: Requirements that were asked to be installed, in this order.
        missing: Names that `pip_check` and `torchInstalled` say are not there; installing removes them.
        fails: An exception that the next installation raises.
    """

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.missing: set[str] = set()
        self.fails: Exception | None = None

    def pip_install(self, requirements: Any, **_more: Any) -> None:
        """Record an installation."""
        if self.fails is not None:
            raise self.fails
        for requirement in requirements if isinstance(requirements, (list, tuple)) else str(requirements).split():
            self.installed.append(str(requirement))
            self.missing.discard(_name(str(requirement)))

    def pip_check(self, requirements: Any) -> bool:
        """Return whether all are there."""
        entries = requirements if isinstance(requirements, (list, tuple)) else [requirements]
        return not any(_name(str(entry)) in self.missing for entry in entries)

    def pip_ensure(self, requirements: Any, *, requester: str = "", **more: Any) -> None:
        """Install what is missing."""
        entries = requirements if isinstance(requirements, (list, tuple)) else [requirements]
        absent = [str(entry) for entry in entries if _name(str(entry)) in self.missing]
        if absent:
            self.pip_install(absent)

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


def _name(requirement: str) -> str:
    for index, character in enumerate(requirement):
        if character in "<>=!~ [;":
            return requirement[:index].lower()
    return requirement.lower()
