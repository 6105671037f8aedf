"""Whether a result was corrected by hand: told by its voxels, for nobody records a correction saved over it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from .case_state import LABELMAP_FILE, SEGMENTATION_FILE
from .errors import InputError
from .label_image import read_label_image
from .labels import SEGMENTS, Label
from .nearest_lung import whole_lungs_labelmap
from .segment_masks import ALIGNMENT_TOLERANCE_VOXELS
from .segmentation_reader import read_segmentation
from .texts import text as _


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


def is_corrected(folder: Path) -> bool:
    """Tell whether a case's segments are others than its labelmap says, which only a run writes.

    False if one of the two files is missing or damaged.
    """
    if not all((folder / name).is_file() for name in (LABELMAP_FILE, SEGMENTATION_FILE)):
        return False
    try:
        written = read_segmentation(folder / LABELMAP_FILE)
        image = read_label_image(folder / SEGMENTATION_FILE, expected="")
    except InputError:
        return False
    if image.HasMetaDataKey(f"Segment{len(SEGMENTS)}_ID"):  # one more, of the user's own
        return True
    try:
        saved = read_segmentation(folder / SEGMENTATION_FILE)
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
