"""How readily infection should be called: agreement with the labels as a function of the factor on its probability.

A network that learnt mostly from healthy voxels is slow to call infection; the bundle's `infection_factor` makes up
for that. It is chosen on training cases only, and with an eye on how much infection it invents in healthy chests
(`benchmark`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from CovidSegLib.labels import Label
from CovidSegLib.postprocess import favour_infection

from ..scores import Counts, mean

if TYPE_CHECKING:
    from .lung_voxels import LungVoxels

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def infection_agreement(voxels: LungVoxels, *, factor: float) -> tuple[float, float]:
    """Return the Dice of infection inside the labelled lungs, and the share of these lungs that is called infected.

    The Dice is NaN if neither the labels nor the network find any infection.
    """
    probabilities = voxels.probabilities.copy()
    favour_infection(probabilities, factor=factor)
    called = probabilities.argmax(axis=0) == Label.INFECTION
    return Counts.of(voxels.infected, called).dice, float(called.mean())


def decide(voxels: Mapping[str, LungVoxels], *, groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row per factor: for each group of cases the mean Dice, and the mean shares called and labelled infected.

    The mean leaves cases without a Dice out; it is NaN if no case of the group has one.

    Args:
        voxels: The voxels of each case, by its name.
        groups: The group of each case, by its name.
    """
    rows = []
    for factor in FACTORS:
        row: dict[str, Any] = {"factor": factor}
        for group in sorted(set(groups.values())):
            parts = [part for name, part in voxels.items() if groups[name] == group]
            if parts:
                found = [infection_agreement(part, factor=factor) for part in parts]
                row[group] = {
                    "dice": mean([dice for dice, _ in found]),
                    "called": float(np.mean([called for _, called in found])),
                    "labelled": float(np.mean([part.infected.mean() for part in parts])),
                }
        rows.append(row)
    return rows
