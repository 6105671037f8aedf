"""Whether a result was corrected by hand: nobody records that, so its voxels tell, or without a labelmap its header."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from ..anatomy.nearest_lung import whole_lungs_labelmap
from ..errors import InputError
from ..labels import SEGMENTS, Label
from ..readers.label_image import read_label_image
from ..results.segment_masks import ALIGNMENT_TOLERANCE_VOXELS, SegmentMasks
from ..results.segmentation_reader import read_segmentation
from ..texts import Text
from ..texts import text as _
from .state import LABELMAP_FILE, REPORT_JSON_FILE, SEGMENTATION_FILE

#: The header of a segmentation is a few kilobytes long.
_HEADER_BYTES = 1 << 16
_METADATA_KEY = re.compile(rb"^(\w+):=", re.MULTILINE)


def refuse_to_replace_correction(folder: Path, *, reason: str) -> None:
    """Make sure that computing a case again replaces no correction by hand.

    Args:
        folder: The case's.
        reason: Why it is to be computed again.

    Raises:
        InputError: Its segmentation was corrected.
    """
    if is_corrected(folder):
        text = _(
            "'{file}' was corrected by hand, and would be replaced ({reason}): move the folder '{folder}' away, "
            "choose another output folder (-o OUT), or replace the correction with --overwrite."
        )
        raise InputError(text.format(file=SEGMENTATION_FILE, reason=reason, folder=folder))


def figures_before_correction(folder: Path) -> Text | None:
    """Return what to do if a complete case was corrected after its figures were made; None if it was not."""
    made, saved = ((folder / name).stat().st_mtime for name in (REPORT_JSON_FILE, SEGMENTATION_FILE))
    if saved <= made or not is_corrected(folder):  # a run, and `covidseg quantify`, write the report last
        return None
    return _(
        "'{file}' was corrected after these figures were made: renew them with covidseg quantify CT '{path}' "
        "-o '{folder}'"
    ).format(file=SEGMENTATION_FILE, path=folder / SEGMENTATION_FILE, folder=folder)


def is_corrected(folder: Path) -> bool:
    """Tell whether a case's segments are others than its labelmap says, which only a run writes.

    Without a labelmap to compare with, a segmentation that another program saved counts as corrected. False if the
    segmentation is missing or damaged.
    """
    path = folder / SEGMENTATION_FILE
    try:
        image = read_label_image(path, expected="")
    except InputError:
        return False
    try:
        written = read_segmentation(folder / LABELMAP_FILE)
    except InputError:  # missing or damaged
        return _is_saved_by_another_program(path)
    if image.HasMetaDataKey(f"Segment{len(SEGMENTS)}_ID"):  # one more, of the user's own
        return True
    try:
        saved = read_segmentation(path)
        if _is_empty(saved) and _is_empty(written):  # then Slicer saves a grid of a single voxel
            return False
        # Slicer may save a part of the grid; the labelmap has all of it, spacing rounded and sheared axes straightened.
        grid = dataclasses.replace(
            written.geometry,
            spacing_ijk_mm=saved.geometry.spacing_ijk_mm,
            direction_lps=saved.geometry.direction_lps,
        )
        masks = saved.placed_on(grid)
    except InputError:  # a segment was removed, or reaches beyond the CT
        return True
    # The lungs under the infection can be corrected as well; to which lung it was given, exact spacing decides.
    lungs_kji = whole_lungs_labelmap(written.to_labelmap(), geometry=grid)
    return not (
        grid.straightened().is_close_to(written.geometry, tolerance_voxels=ALIGNMENT_TOLERANCE_VOXELS)
        and np.array_equal(masks.infection_kji, written.infection_kji)
        and np.array_equal(masks.left_kji, lungs_kji == Label.LEFT_LUNG)
        and np.array_equal(masks.right_kji, lungs_kji == Label.RIGHT_LUNG)
    )


def _is_empty(masks: SegmentMasks) -> bool:
    return not any(mask_kji.any() for mask_kji in (masks.left_kji, masks.right_kji, masks.infection_kji))


def _is_saved_by_another_program(path: Path) -> bool:
    """Tell whether the header's keys are in order of the alphabet, as Slicer and ITK put them and CovidSeg does not."""
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES).split(b"\n\n", 1)[0]
    keys = _METADATA_KEY.findall(header)
    return bool(keys == sorted(keys))
