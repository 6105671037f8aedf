"""The effects of Slicer's Segment Editor, by name; none of them paints here."""

from __future__ import annotations

from typing import Any

EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Fill between slices", "Margin")
EFFECTS += ("Hollow", "Smoothing", "Scissors", "Islands", "Logical operators", "Mask volume")


class Effect:
    """The active effect; its parameters are kept as text in the editor node, as in Slicer."""

    def __init__(self, name: str, node: Any) -> None:
        self.name = name
        self._node = node

    def setParameter(self, name: str, value: Any) -> None:
        """Set a parameter."""
        self._node.SetAttribute(f"{self.name}.{name}", str(value))

    def parameter(self, name: str) -> str:
        """Return a parameter."""
        return self._node.GetAttribute(f"{self.name}.{name}") or ""
