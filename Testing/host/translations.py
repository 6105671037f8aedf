"""`slicer.i18n`: texts are looked up by the file that marks them, as in Slicer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def context_of(source: str) -> str:
    """Return the context of a source file: its name, with its package's before it if it is in one."""
    path = Path(source)
    package = f"{path.parent.name}." if (path.parent / "__init__.py").is_file() else ""
    return package + path.stem if path.is_file() else path.name


def make_module(translate: Callable[[str, str], str]) -> ModuleType:
    """Return the module; `translate` gets context and text."""

    def tr(text: str) -> str:
        # Modules of the panel keep the first host's function; what counts is the language of the present one.
        present = sys.modules.get("slicer.i18n", module)
        return str(present.translate(context_of(sys._getframe(1).f_code.co_filename), text))

    module = ModuleType("slicer.i18n")
    module.tr, module.translate, module.getContext = tr, translate, context_of  # type: ignore[attr-defined]
    return module
