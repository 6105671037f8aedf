"""The effects of Slicer's Segment Editor, by name; none of them paints here."""

from __future__ import annotations

from dataclasses import dataclass

EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Fill between slices", "Margin")
EFFECTS += ("Hollow", "Smoothing", "Scissors", "Islands", "Logical operators", "Mask volume")


@dataclass(frozen=True)
class Effect:
    """The active effect."""

    name: str
