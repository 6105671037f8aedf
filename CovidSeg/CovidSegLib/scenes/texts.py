"""Translation of texts by Slicer; without the application they stay English.

A text is marked by `_("...")`, as everywhere in Slicer, so that its tools find it in the sources. Texts of the Slicer
side are translated at once (`tr`), those of the engine only when they are shown (`shown`): a warning appears in the
user's language in the panel, and in English in the files of a case.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import CovidSegError
from ..texts import translated

__all__ = ["look_up", "shown", "tr"]

try:
    from slicer.i18n import tr  # not wrapped: it looks up which file calls it
except ImportError:  # slicer-core has no translations

    def tr(text: str) -> str:
        """Return a text as it is."""
        return text


def shown(said: object) -> str:
    """Return a text or an error of the engine in the language of the application."""
    return str(translated(said.text if isinstance(said, CovidSegError) else said, translate=look_up))


def look_up(source: str, template: str) -> str:
    """Return the translation of a template that the file `source` of this package marks (a `texts.Translate`)."""
    try:
        from slicer.i18n import getContext, translate
    except ImportError:
        return template
    return str(translate(getContext(str(Path(__file__).parents[1] / source)), template)) if source else template
