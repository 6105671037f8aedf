"""How texts are translated: by Slicer; without the application they stay as they are.

A text is marked by `_("...")`, as everywhere in Slicer, so that its tools find it in the sources. What the Slicer side
says itself is translated at once (`tr`), what the engine says when it is shown (`shown`): a warning is translated in
the panel and stays English in the files of a case.
"""

from __future__ import annotations

from pathlib import Path

from .errors import CovidSegError
from .texts import translated

__all__ = ["shown", "tr"]

try:
    from slicer.i18n import tr  # itself: it looks up which file calls it
except ImportError:  # slicer-core has no translations

    def tr(text: str) -> str:
        """Return a text as it is."""
        return text


def shown(said: object) -> str:
    """Return what the engine said, a text or an error, in the language of the application."""
    return str(translated(said.text if isinstance(said, CovidSegError) else said, translate=_look_up))


def _look_up(source: str, template: str) -> str:
    """Return the translation of what a file of this package marks."""
    try:
        from slicer.i18n import getContext, translate
    except ImportError:
        return template
    return str(translate(getContext(str(Path(__file__).with_name(source))), template)) if source else template
