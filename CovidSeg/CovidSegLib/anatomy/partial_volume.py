"""Remove false infection that lies on or beside the lungs, not in them: sheets of partial volume, pieces of organs.

Where a dome of liver or heart ends within a slice, its voxels mix lung and organ and look like ground glass; the
thicker the slices, the wider that sheet. Lung borders on one of its faces only, as it does on specks of spleen or
stomach below the diaphragm. Infection in a lung is surrounded by lung: in all labelled cases on half of its surface,
and on two thirds if it is a film, except for specks of 0.1 ml. Thick or large pieces stay, as a collapsed, wholly
infected lobe touches little lung, unless they hang on it by a thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..boxes import neighbours
from ..labels import Label


@dataclass(frozen=True)
class Sheet:
    """Limits below all of which a piece of infection is not believed to be in a lung.

    Attributes:
        thickness_mm: Twice the volume divided by the surface.
        lung_contact: Share of the surface that borders on lung, 0 to 1.
        volume_ml: Volume.
    """

    thickness_mm: float
    lung_contact: float
    volume_ml: float


@dataclass(frozen=True)
class Islands:
    """Pieces of infection, numbered from 1, and per piece its measures; entry 0 of those stands for no piece.

    Attributes:
        pieces_kji: (k, j, i) int32, the numbers; voxels that share a face, an edge or a corner are of one piece.
        volume_ml: (n + 1,) volumes.
        thickness_mm: (n + 1,) twice volume by surface: the thickness of a sheet, two thirds of a ball's radius.
        lung_contact: (n + 1,) share of the surface that borders on lung.
    """

    pieces_kji: np.ndarray
    volume_ml: np.ndarray
    thickness_mm: np.ndarray
    lung_contact: np.ndarray


def measure_islands(labels_kji: np.ndarray, *, spacing_kji_mm: tuple[float, float, float]) -> Islands:
    """Return the pieces of infection in labels (k, j, i) with their thickness and how much lung they border on."""
    from scipy import ndimage

    infected = labels_kji == Label.INFECTION
    lung = (labels_kji == Label.LEFT_LUNG) | (labels_kji == Label.RIGHT_LUNG)
    pieces, count = ndimage.label(infected, structure=np.ones((3, 3, 3)))
    voxel_mm3 = float(np.prod(spacing_kji_mm))
    surface_mm2, contact_mm2 = np.zeros(count + 1), np.zeros(count + 1)
    for axis, spacing_mm in enumerate(spacing_kji_mm):
        one, other = neighbours(axis)
        for here, there in ((one, other), (other, one)):
            open_faces = infected[here] & ~infected[there]
            owners, on_lung = pieces[here][open_faces], lung[there][open_faces]
            face_mm2 = voxel_mm3 / spacing_mm
            surface_mm2 += face_mm2 * np.bincount(owners, minlength=count + 1)
            contact_mm2 += face_mm2 * np.bincount(owners[on_lung], minlength=count + 1)
    surface_mm2 = np.maximum(surface_mm2, 1e-9)
    volume_mm3 = voxel_mm3 * np.bincount(pieces[infected], minlength=count + 1)
    return Islands(pieces, volume_mm3 / 1000.0, 2.0 * volume_mm3 / surface_mm2, contact_mm2 / surface_mm2)


def drop_partial_volume(
    probabilities: np.ndarray,
    labels_kji: np.ndarray,
    *,
    spacing_kji_mm: tuple[float, float, float],
    sheets: tuple[Sheet, ...],
) -> None:
    """Give pieces of infection that border on little lung to the next likely class, in place.

    Args:
        probabilities: (4, k, j, i) float32; changed.
        labels_kji: (k, j, i) uint8, their argmax; changed.
        spacing_kji_mm: Voxel spacing.
        sheets: A piece below all limits of any of these is dropped.
    """
    islands = measure_islands(labels_kji, spacing_kji_mm=spacing_kji_mm)
    dropped = np.zeros(islands.volume_ml.shape, dtype=bool)
    for sheet in sheets:
        thin = (islands.thickness_mm < sheet.thickness_mm) & (islands.lung_contact < sheet.lung_contact)
        dropped |= thin & (islands.volume_ml < sheet.volume_ml)
    dropped[0] = False
    where = dropped[islands.pieces_kji]
    if not where.any():
        return
    others = probabilities[:, where]
    others[Label.INFECTION] = 0.0
    total = others.sum(axis=0)
    others[Label.BACKGROUND, total == 0.0] = 1.0
    probabilities[:, where] = others / np.where(total == 0.0, 1.0, total)
    labels_kji[where] = others.argmax(axis=0)
