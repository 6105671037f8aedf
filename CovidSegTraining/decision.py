"""How readily infection should be called: agreement with the labels by the factor on its probability.

A network taught mostly on healthy voxels is slow to call infection. The bundle's `infection_factor` makes up for it;
it is chosen on cases of the training only, and on how much infection it makes up in healthy chests (`benchmark`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from CovidSegLib.labels import Label
from CovidSegLib.postprocess import favour_infection

if TYPE_CHECKING:
    from .lung_voxels import LungVoxels

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def infection_agreement(voxels: LungVoxels, *, factor: float) -> tuple[float, float]:
    """Return Dice of infection inside the labelled lungs, and the share of them called infected.

    Dice is not a number where neither the labels nor the network know infection.
    """
    probabilities = voxels.probabilities.copy()
    favour_infection(probabilities, factor=factor)
    called = probabilities.argmax(axis=0) == Label.INFECTION
    both = np.count_nonzero(called) + np.count_nonzero(voxels.infected)
    dice = 2.0 * np.count_nonzero(called & voxels.infected) / both if both else float("nan")
    return dice, float(called.mean())


def decide(voxels: Mapping[str, LungVoxels], *, groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row per factor: mean Dice, and mean shares called and labelled infected, of each group of cases.

    Args:
        voxels: By name of the case.
        groups: By name of the case, what it may be used for.
    """
    rows = []
    for factor in FACTORS:
        row: dict[str, Any] = {"factor": factor}
        for group in sorted(set(groups.values())):
            parts = [part for name, part in voxels.items() if groups[name] == group]
            if parts:
                found = [infection_agreement(part, factor=factor) for part in parts]
                row[group] = {
                    "dice": float(np.nanmean([dice for dice, _ in found])),
                    "called": float(np.mean([called for _, called in found])),
                    "labelled": float(np.mean([part.infected.mean() for part in parts])),
                }
        rows.append(row)
    return rows
