"""Map CTs that are not in HU back to HU, never silently: 8-bit grey, HU with an offset of 1024, or a wrong scale.

A mapping is a guess, so it is accepted only if air-filled lungs inside a body are found in its result.
Source: METHOD section 2 (the paper's grey cases show -1250 to 250 HU, more or less).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .anatomy.chest import lungs_found
from .anatomy.hu_scale import is_cut_off, rescale, wrong_scale
from .errors import InputError
from .geometry import Geometry
from .texts import text as _
from .volume import CTVolume

#: Grey 0 and the width of the window that the 256 grey values span.
GREY_LOW_HU = -1250.0
GREY_SPAN_HU = 1500.0
OFFSET_HU = 1024
#: An offset CT starts at 0, but noise and interpolation may undershoot: down to the first value anywhere, and further
#: in this share of the voxels.
_UNDERSHOOT = -60
_UNDERSHOOT_SHARE = 1e-3
#: More voxels below are padding if they have no more distinct values than this.
_MAX_PADDING_VALUES = 2
_FEW_SLICES = 8


def to_hounsfield(ct: CTVolume, *, lungs_found: Callable[[np.ndarray, Geometry], bool] = lungs_found) -> CTVolume:
    """Return the CT if it is in HU; else a mapped copy, with a warning.

    Args:
        ct: As read. It counts as grey if all of it lies in 0..255, and as HU with an offset if nothing
            but padding is below 0.
        lungs_found: Tells whether (k, j, i) HU on a grid show air-filled lungs inside a body.

    Raises:
        InputError: The values are not HU, and no mapping shows lungs; or a picture has lost the lungs' density.
    """
    grey = is_grey(ct.hu_kji)
    if grey:
        mapped = grey_to_hu(ct.hu_kji)
        warning = _(
            "8-bit grey values instead of HU: mapped to -1250..250 HU; values beyond are lost, HU are approximate."
        )
        if is_cut_off(mapped, geometry=ct.geometry, black_hu=GREY_LOW_HU, white_hu=GREY_LOW_HU + GREY_SPAN_HU):
            raise InputError(
                _(
                    "{case}: is an 8-bit picture that shows lungs all black or soft tissue all white: its window was "
                    "not one for lungs, and their density is lost. Export the CT again from DICOM."
                ).format(case=ct.name)
            )
    elif is_offset(ct.hu_kji):
        mapped = offset_to_hu(ct.hu_kji)
        text = _("Values start at 0 as if HU were stored with an offset: {offset} was subtracted.")
        warning = text.format(offset=OFFSET_HU)
    else:
        return _on_right_scale(ct, lungs_found=lungs_found)
    mapped_ct = replace(ct, hu_kji=mapped, warnings=(*ct.warnings, warning))
    scaled_ct = _on_right_scale(mapped_ct, lungs_found=lungs_found, is_guess=grey)
    # If the values were rescaled, lungs were found already.
    if scaled_ct is mapped_ct and not lungs_found(mapped, ct.geometry):
        raise InputError(
            _(
                "{case}: no lungs found: is this a chest CT in HU? Its values ({lowest:g} to {highest:g}) are not, "
                "and read as 8-bit grey or as HU + {offset} they show no lungs either. Export the CT again from DICOM."
            ).format(case=ct.name, lowest=float(ct.hu_kji.min()), highest=float(ct.hu_kji.max()), offset=OFFSET_HU)
        )
    return scaled_ct


def _on_right_scale(
    ct: CTVolume, *, lungs_found: Callable[[np.ndarray, Geometry], bool], is_guess: bool = False
) -> CTVolume:
    """Return the CT rescaled if air and soft tissue are not where they belong in HU and lungs show up afterwards."""
    scale = wrong_scale(ct.hu_kji, geometry=ct.geometry, is_guess=is_guess)
    if scale is None:
        return ct
    scaled = rescale(ct.hu_kji, geometry=ct.geometry, scale=scale)
    if not lungs_found(scaled, ct.geometry):
        return ct
    text = _(
        "The values are on another scale than HU: air reads {air:.0f} and soft tissue {soft_tissue:.0f}. They were "
        "rescaled so that air reads -1000 and soft tissue 50; HU are approximate."
    ).format(air=scale.air, soft_tissue=scale.soft_tissue)
    return replace(ct, hu_kji=scaled, warnings=(*ct.warnings, text))


def is_grey(values_kji: np.ndarray) -> bool:
    """Tell whether all values are in 0..255: whole numbers, or what interpolation made of them.

    No chest in HU, or in HU with an offset, ends there. Fractions up to 1 are shares or probabilities.
    """
    if values_kji.min() < 0 or values_kji.max() > 255:
        return False
    return values_kji.dtype.kind in "iu" or bool(values_kji.max() > 1)


def is_offset(values_kji: np.ndarray) -> bool:
    """Tell whether values start at 0, apart from padding (one or two constant values far below)."""
    few_slices = values_kji[:: max(1, len(values_kji) // _FEW_SLICES)]
    for part in (few_slices, values_kji):  # a few slices tell HU apart ten times faster than all of them
        below = part[part < _UNDERSHOOT]
        if below.size > _UNDERSHOOT_SHARE * values_kji.size and not _are_few(below, most=_MAX_PADDING_VALUES):
            return False
    return True


def grey_to_hu(values_kji: np.ndarray) -> np.ndarray:
    """Return int16 HU of grey values, rounded to whole ones: -1250 + grey * 1500 / 255, rounded."""
    table = np.rint(GREY_LOW_HU + np.arange(256) * GREY_SPAN_HU / 255.0).astype(np.int16)
    return np.asarray(table[np.rint(values_kji).astype(np.uint8)])


def offset_to_hu(values_kji: np.ndarray) -> np.ndarray:
    """Return HU of values stored as HU + 1024; padding becomes -1024, the value that scanners use for it."""
    if values_kji.dtype.kind == "u" or values_kji.dtype.itemsize == 1:
        # These types cannot hold -1024.
        values_kji = values_kji.astype(np.int16 if values_kji.max() <= np.iinfo(np.int16).max else np.int32)
    mapped = np.maximum(values_kji, 0) - values_kji.dtype.type(OFFSET_HU)
    return np.asarray(mapped.astype(values_kji.dtype, copy=False))


def _are_few(values: np.ndarray, *, most: int) -> bool:
    """Tell whether there are at most so many distinct values; faster than sorting them all."""
    for _value in range(most):
        if values.size:
            values = values[values != values[0]]
    return values.size == 0
