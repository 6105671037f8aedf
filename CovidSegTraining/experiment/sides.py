"""The two sides of a fold, training and validation: their prepared cases, checked before a run begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from CovidSegLib.errors import InputError

from ..splits import Fold
from .cache import PreparedCase
from .loss import UNKNOWN


def sides_of_fold(
    cases: Sequence[PreparedCase], *, fold: Fold, classes: int
) -> tuple[list[PreparedCase], list[PreparedCase]]:
    """Return the cases to learn from and those to validate on.

    Raises:
        InputError: A case of the fold is missing or on both sides, a side is empty, a label is beyond the classes, or
            no training case has a class.
    """
    if len(cases) < 2:
        raise InputError(f"{len(cases)} prepared case(s): at least one to learn from and another to validate on needed")
    if both := sorted(set(fold.training) & set(fold.validation)):
        raise InputError(f"case '{both[0]}' is in training and in validation; take it out of one")
    if not fold.training or not fold.validation:
        raise InputError("the fold needs at least one case for training and one for validation")
    by_name = {case.name: case for case in cases}
    if missing := sorted({*fold.training, *fold.validation} - by_name.keys()):
        raise InputError(
            f"case '{missing[0]}' of the fold ({len(missing)} in all) is not prepared; "
            "prepare it, or make folds of what is there with 'covidseg-train split'"
        )
    for case in cases:
        highest = int(case.labels_kji[case.labels_kji != UNKNOWN].max(initial=0))
        if highest >= classes:
            raise InputError(f"case '{case.name}' has label {highest}, the recipe only {classes} classes")
    training = [by_name[name] for name in fold.training]
    seen = set().union(*(np.unique(case.labels_kji).tolist() for case in training))
    if unseen := sorted(set(range(classes)) - seen):
        raise InputError(
            f"no training case has a voxel of label {unseen[0]}, so that it cannot be learnt: "
            f"add a case that has it, or correct network.classes ({classes})"
        )
    return training, [by_name[name] for name in fold.validation]
