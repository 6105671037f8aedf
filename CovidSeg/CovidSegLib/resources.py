"""Find the files shipped with CovidSeg: model bundles, terminology, icons."""

from __future__ import annotations

from pathlib import Path

from .errors import ModelError
from .texts import text as _


def resource_path(*parts: str) -> Path:
    """Return the path of a shipped resource, in a wheel, a source tree or Slicer's module path.

    Raises:
        ModelError: The installation is incomplete.
    """
    here = Path(__file__).resolve().parent
    for root in (here / "Resources", here.parent / "Resources"):
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise ModelError(
        _("CovidSeg's resource '{file}' is missing: the installation is incomplete, install it again.").format(
            file="/".join(parts)
        )
    )
