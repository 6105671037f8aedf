"""How texts that a scene shows are translated: by Slicer; without the application they stay as they are.

A text is marked by `_("...")`, as everywhere in Slicer, so that its tools find it in the sources.
"""

from __future__ import annotations

__all__ = ["tr"]

try:
    from slicer.i18n import tr  # itself: it looks up which file calls it
except ImportError:  # slicer-core has no translations

    def tr(text: str) -> str:
        """Return a text as it is."""
        return text
