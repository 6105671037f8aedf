"""Label values of the exclusive labelmap, and the segments made from them.

Source: METHOD section 1 (paper, section "Dataset"): four exclusive classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Label(IntEnum):
    """Values in ``labelmap.nii.gz``; left and right are the patient's; infection wins."""

    BACKGROUND = 0
    LEFT_LUNG = 1
    RIGHT_LUNG = 2
    INFECTION = 3


@dataclass(frozen=True)
class SegmentDefinition:
    """A segment as users see it: stable ID, name, and display colour (RGB, 0 to 1)."""

    label: Label
    segment_id: str
    name: str
    color_rgb: tuple[float, float, float]


SEGMENTS: tuple[SegmentDefinition, ...] = (
    SegmentDefinition(Label.LEFT_LUNG, "left_lung", "left lung", (0.35, 0.60, 0.95)),
    SegmentDefinition(Label.RIGHT_LUNG, "right_lung", "right lung", (0.30, 0.80, 0.90)),
    SegmentDefinition(Label.INFECTION, "infection", "COVID-19 infection", (0.90, 0.15, 0.15)),
)


def likeliest_label(shares: np.ndarray) -> np.ndarray:
    """Return the label (k, j, i) uint8 with the largest of the shares (4, k, j, i); of equal shares the lower label.

    It is `argmax` over the first axis, several times faster on so few classes.
    """
    labels = np.zeros_like(shares[0], dtype=np.uint8)
    for k in range(len(labels)):  # a slice at a time stays in the processor's cache
        best = shares[0, k].copy()
        for label in range(1, shares.shape[0]):
            np.copyto(labels[k], label, where=shares[label, k] > best)
            np.maximum(best, shares[label, k], out=best)
    return labels
