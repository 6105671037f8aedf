"""Corrections as a user makes them: what the tests of editing and of noticing edits share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
from CovidSegLib.labels import Label
from CovidSegLib.scenes.segments import oriented_image, segment_mask

WHEN = datetime(2020, 4, 6, 12, 30)


def draw(node: Any, *, segment_id: str, mask_kji: np.ndarray, case: Any, logic: Any) -> None:
    """Set a segment's voxels as an editor effect does, letting segments overlap."""
    segmentations = logic.context.logic("Segmentations")
    labels = oriented_image(mask_kji.astype(np.uint8), matrix=case.matrix)
    assert segmentations.SetBinaryLabelmapToSegment(labels, node, segment_id, segmentations.MODE_REPLACE)


def mask_of(node: Any, *, segment_id: str, case: Any) -> np.ndarray:
    return segment_mask(node, segment_id=segment_id, volume_node=case.volume)


def specks(case: Any) -> np.ndarray:
    """Return two specks of 1 and 2 voxels away from the infection."""
    mask_kji = np.zeros(case.labels_kji.shape, dtype=bool)
    mask_kji[0, 0, 0] = True
    mask_kji[-1, -1, -2:] = True
    return mask_kji


EDITS: dict[str, Callable[..., None]] = {
    "painted": lambda node, case, logic: draw(
        node,
        segment_id="infection",
        mask_kji=specks(case) | (case.labels_kji == Label.INFECTION),
        case=case,
        logic=logic,
    ),
    "erased": lambda node, case, logic: draw(
        node, segment_id="infection", mask_kji=np.zeros(case.labels_kji.shape, bool), case=case, logic=logic
    ),
    "lung painted": lambda node, case, logic: draw(
        node, segment_id="left_lung", mask_kji=specks(case), case=case, logic=logic
    ),
    "removed": lambda node, case, logic: node.GetSegmentation().RemoveSegment("infection"),
}


def report_of(logic: Any, *, node: Any, case: Any) -> dict[str, Any]:
    return logic.quantifySegmentation(node, volumeNode=case.volume).to_dict()  # type: ignore[no-any-return]
