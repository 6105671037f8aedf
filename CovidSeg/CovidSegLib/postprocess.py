"""Make the network's answer anatomically plausible: two lungs, each on its side, infection only in them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .anatomy.abdominal_gas import abdominal_gas, outvoted_air
from .anatomy.partial_volume import Sheet, drop_partial_volume
from .anatomy.sides import settle_sides
from .boxes import Box, bounding_box, grown
from .errors import ModelError
from .labels import Label, likeliest_label
from .preprocess import NetworkInput
from .stored_settings import read_settings
from .texts import text as _

BACKGROUND, LEFT, RIGHT, INFECTION = (int(label) for label in Label)


@dataclass(frozen=True)
class PostprocessingRecipe:
    """How readily infection is called, and which pieces are too small or thin to be believed; stored in the bundle.

    Attributes:
        infection_factor: The probability of infection is multiplied by this before the classes are compared:
            above 1 for a network that calls infection too rarely.
        min_lung_piece_ml: Pieces of lung (with infection) smaller than this become background.
        min_lung_piece_share: So do pieces smaller than this share of the largest.
        min_lone_infection_share: Infection that touches no lung becomes background if it is smaller than this share of
            the largest piece; a collapsed, wholly infected lung is larger.
        min_lone_contact: Infection as small as that is dropped, too, if less than this share of its surface touches
            lung. Of pieces of at least 1 ml in 15 training CTs, 0.48 or more does.
        min_infection_ml: Islands of infection smaller than this become healthy lung.
        min_lung_contact: Sheets, islands of infection thinner than `max_sheet_mm`, become the next likely class if
            the share of their surface that borders on lung is smaller than this (see `partial_volume`).
        max_sheet_mm: See `min_lung_contact`.
        max_sheet_ml: Sheets and films at least this large stay; those on the domes in thick slices have up to 50 ml.
        min_film_contact: The same as `min_lung_contact` for films, which are about one voxel thick. Of eight such
            films in six training cases, the labels call infection only a fifth of one, of 0.3 ml.
        max_film_mm: Films are thinner than this.
    """

    infection_factor: float = 1.0
    min_lung_piece_ml: float = 10.0
    min_lung_piece_share: float = 0.02
    min_lone_infection_share: float = 0.06
    min_lone_contact: float = 0.05
    min_infection_ml: float = 0.06
    min_lung_contact: float = 0.4
    max_sheet_mm: float = 10.0
    max_sheet_ml: float = 60.0
    min_film_contact: float = 0.66
    max_film_mm: float = 2.3

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PostprocessingRecipe:
        """Return the recipe stored in a bundle.

        Raises:
            ModelError: A key is unknown or a value impossible.
        """
        recipe = read_settings(cls, values, what=_("postprocessing recipe"))
        if recipe.infection_factor <= 0 or min(asdict(recipe).values()) < 0:
            raise ModelError(_("postprocessing recipe: sizes and shares must not be negative, nor the factor 0"))
        return recipe


def consistent_labels(
    probabilities: np.ndarray,
    *,
    network_input: NetworkInput,
    recipe: PostprocessingRecipe,
) -> np.ndarray:
    """Return the labels (k, j, i) uint8 of the network's answer to its input; see `make_consistent`.

    Args:
        probabilities: (4, k, j, i) float32; corrected in place.
        network_input: What the network was shown.
        recipe: How readily infection is called, sizes of pieces to drop.
    """
    return make_consistent(
        probabilities,
        hu_kji=network_input.hu_kji,
        inside_kji=network_input.inside_kji,
        spacing_kji_mm=network_input.spacing_kji_mm,
        recipe=recipe,
    )


def make_consistent(
    probabilities: np.ndarray,
    *,
    hu_kji: np.ndarray,
    inside_kji: np.ndarray,
    spacing_kji_mm: tuple[float, float, float],
    recipe: PostprocessingRecipe,
) -> np.ndarray:
    """Return the labels (k, j, i) uint8 after correcting the class probabilities.

    Args:
        probabilities: (4, k, j, i) float32; corrected in place so that their argmax is the result.
        hu_kji: (k, j, i) HU, clipped to the network's window or not.
        inside_kji: (k, j, i) bool, the patient.
        spacing_kji_mm: Voxel spacing.
        recipe: How readily infection is called, sizes of pieces to drop.
    """
    favour_infection(probabilities, factor=recipe.infection_factor)
    _set_background(probabilities, ~inside_kji)
    labels = likeliest_label(probabilities)
    for find_gas in (abdominal_gas, outvoted_air):
        gas = find_gas(hu_kji, lungs_kji=labels > 0, inside_kji=inside_kji, spacing_kji_mm=spacing_kji_mm)
        _set_background(probabilities, gas)
        labels[gas] = BACKGROUND
    if (box := bounding_box(labels)) is not None:
        # The rest works on the lungs' box only, about half of the image.
        box = _with_room(box, shape_kji=labels.shape)
        _settle_lungs(probabilities[:, *box], labels[box], spacing_kji_mm=spacing_kji_mm, recipe=recipe)
    return labels


def _with_room(box: Box, *, shape_kji: tuple[int, ...]) -> Box:
    """Return the lungs' box with so much room that the result in it is the same as in the whole image.

    A face of a sheet counts only if there is a voxel beyond it. In-plane, `settle_sides` looks at every other voxel, so
    that there the box must begin at an even one and needs room of two.
    """
    _k, j, i = box
    return grown(box, margin_kji=(1, 2 + j.start % 2, 2 + i.start % 2), shape_kji=shape_kji)


def _settle_lungs(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    spacing_kji_mm: tuple[float, float, float],
    recipe: PostprocessingRecipe,
) -> None:
    """Give each lung its side, and drop pieces that are too small or too thin to be believed, in place."""
    voxel_ml = float(np.prod(spacing_kji_mm)) / 1000.0
    largest_ml = _drop_lung_pieces(probabilities, labels, voxel_ml=voxel_ml, recipe=recipe)
    settle_sides(probabilities, labels, spacing_kji_mm=spacing_kji_mm)
    # A lung's probability, now the sum of both sides', may exceed that of another class where neither did before.
    labels[:] = likeliest_label(probabilities)
    drop_partial_volume(
        probabilities,
        labels,
        spacing_kji_mm=spacing_kji_mm,
        sheets=(
            Sheet(recipe.max_sheet_mm, recipe.min_lung_contact, recipe.max_sheet_ml),
            Sheet(recipe.max_film_mm, recipe.min_film_contact, recipe.max_sheet_ml),
            Sheet(math.inf, recipe.min_lone_contact, recipe.min_lone_infection_share * largest_ml),
        ),
    )
    _drop_infection_islands(probabilities, labels, voxel_ml=voxel_ml, recipe=recipe)
    # The steps above leave new specks: where the sum of both sides won, or behind a sheet that was dropped.
    _drop_lung_pieces(probabilities, labels, voxel_ml=voxel_ml, recipe=recipe)


def favour_infection(probabilities: np.ndarray, *, factor: float) -> None:
    """Multiply the probability of infection in (4, ...) `probabilities`, then normalise to a sum of 1, in place."""
    if factor != 1.0:
        probabilities[INFECTION] *= factor
        probabilities /= probabilities.sum(axis=0)


def _set_background(probabilities: np.ndarray, where: np.ndarray) -> None:
    """Make background certain in the voxels of a mask, in place."""
    np.copyto(probabilities, 0.0, where=where)
    np.copyto(probabilities[BACKGROUND], 1.0, where=where)


def _drop_lung_pieces(
    probabilities: np.ndarray, labels: np.ndarray, *, voxel_ml: float, recipe: PostprocessingRecipe
) -> float:
    """Drop pieces of lung, infection included, that are too small: bowel gas, table, specks outside the lungs.

    Returns:
        The volume of the largest piece in ml.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(labels > 0)
    if count == 0:
        return 0.0
    sizes = np.bincount(pieces.ravel(), minlength=count + 1).astype(float) * voxel_ml
    sizes[0] = 0.0
    # A piece without lung is infection that touches no lung.
    has_lung = np.zeros(count + 1, dtype=bool)
    has_lung[np.unique(pieces[(labels == LEFT) | (labels == RIGHT)])] = True
    dropped = (sizes < max(recipe.min_lung_piece_ml, recipe.min_lung_piece_share * sizes.max())) | (
        ~has_lung & (sizes < recipe.min_lone_infection_share * sizes.max())
    )
    dropped[0] = False
    where = dropped[pieces]
    _set_background(probabilities, where)
    labels[where] = BACKGROUND
    return float(sizes.max())


def _drop_infection_islands(
    probabilities: np.ndarray, labels: np.ndarray, *, voxel_ml: float, recipe: PostprocessingRecipe
) -> None:
    """Turn specks of infection into the healthy lung around them: vessels cut across, partial volume at fissures."""
    from scipy import ndimage

    pieces, count = ndimage.label(labels == INFECTION, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1).astype(float) * voxel_ml
    small = sizes < recipe.min_infection_ml
    small[0] = False
    if not small.any():
        return
    index = np.flatnonzero(small)
    used = pieces > 0
    left, right = (ndimage.sum_labels(probabilities[side][used], pieces[used], index) for side in (LEFT, RIGHT))
    for side, chosen in ((LEFT, index[left >= right]), (RIGHT, index[left < right])):
        where = np.isin(pieces, chosen)
        probabilities[side, where] += probabilities[INFECTION, where] + probabilities[BACKGROUND, where]
        probabilities[INFECTION, where] = probabilities[BACKGROUND, where] = 0.0
        labels[where] = probabilities[:, where].argmax(axis=0)
