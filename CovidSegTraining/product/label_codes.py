"""What is known about a voxel in training: a class, a choice of classes, or nothing.

Whole chests come without masks; for most of their voxels part of the answer is known
(aerated lung is "left lung, infected or not"). A code names the set of classes that are
possible; the loss asks only that the probability of that set is high.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from CovidSegLib.labels import Label


class Code(IntEnum):
    """Values of a training label image; 0 to 3 are the classes themselves."""

    BACKGROUND = 0
    LEFT_LUNG = 1
    RIGHT_LUNG = 2
    INFECTION = 3
    LEFT_OR_INFECTION = 4
    RIGHT_OR_INFECTION = 5
    UNKNOWN = 6
    NOT_INFECTION = 7


_POSSIBLE: dict[Code, tuple[Label, ...]] = {
    Code.BACKGROUND: (Label.BACKGROUND,),
    Code.LEFT_LUNG: (Label.LEFT_LUNG,),
    Code.RIGHT_LUNG: (Label.RIGHT_LUNG,),
    Code.INFECTION: (Label.INFECTION,),
    Code.LEFT_OR_INFECTION: (Label.LEFT_LUNG, Label.INFECTION),
    Code.RIGHT_OR_INFECTION: (Label.RIGHT_LUNG, Label.INFECTION),
    Code.UNKNOWN: tuple(Label),
    Code.NOT_INFECTION: (Label.BACKGROUND, Label.LEFT_LUNG, Label.RIGHT_LUNG),
}


def possible_classes() -> np.ndarray:
    """Return the (codes, classes) bool table of the classes each code allows."""
    table = np.zeros((len(Code), len(Label)), dtype=bool)
    for code, labels in _POSSIBLE.items():
        table[code, list(labels)] = True
    return table


def mirrored_codes() -> np.ndarray:
    """Return, for each code, the one that says the same of a chest mirrored left to right, uint8."""
    sides = {Label.LEFT_LUNG: Label.RIGHT_LUNG, Label.RIGHT_LUNG: Label.LEFT_LUNG}
    code_of = {frozenset(labels): code for code, labels in _POSSIBLE.items()}
    mirrored = [code_of[frozenset(sides.get(label, label) for label in _POSSIBLE[code])] for code in Code]
    return np.array(mirrored, dtype=np.uint8)
