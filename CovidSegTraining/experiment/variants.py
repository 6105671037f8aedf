"""The cross-validations of one experiment: recipes times sets of folds, such as the journal version's stepwise runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from CovidSegLib.errors import InputError

from ..splits import Fold
from .config import Experiment

#: What the journal version's plot shows for its stepwise runs, in the order of `stepwise`.
JOURNAL_STEPS = {"neither": 0.05, "augmentation": 0.10, "preprocessing": 0.79, "both": 0.80}


@dataclass(frozen=True)
class Variant:
    """A cross-validation: a recipe on some folds. Its name is that of its subfolder, empty if it is the only one."""

    name: str
    recipe: Experiment
    folds: tuple[Fold, ...]


def stepwise(recipe: Experiment) -> dict[str, Experiment]:
    """Return the journal version's four recipes: neither augmentation nor preprocessing, only one of them, both.

    Without preprocessing, all four steps are left out, and the network sees HU on the CT's own grid. The journal
    version does not say which steps it left out.

    Raises:
        InputError: The recipe itself has no augmentation, or no preprocessing.
    """
    off = replace(recipe.preprocessing, clip_hu=None, grey_levels=None, spacing_ijk_mm=None, z_score=False)
    if recipe.augmentation is None or recipe.preprocessing == off:
        raise InputError("the stepwise runs leave out augmentation and preprocessing: give a recipe that has both")
    raw = replace(recipe, preprocessing=off)
    return {
        "neither": replace(raw, augmentation=None),
        "augmentation": raw,
        "preprocessing": replace(recipe, augmentation=None),
        "both": recipe,
    }


def make_variants(recipes: Mapping[str, Experiment], *, folds: Mapping[str, Sequence[Fold]]) -> list[Variant]:
    """Return every recipe on every set of folds, named after both; what there is only one of is not named."""
    return [
        Variant(
            "_".join(name for name, group in ((which, folds), (step, recipes)) if len(group) > 1), recipe, tuple(fold)
        )
        for which, fold in folds.items()
        for step, recipe in recipes.items()
    ]
