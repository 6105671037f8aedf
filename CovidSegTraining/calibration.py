"""How far the infection probability can be believed, and whether the network is unsure where it is wrong.

The labels of the labelled cases are the paper's model's: all figures here are agreement with it. The
temperature is fitted on cases of the training only; cases that are measured only are reported beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from CovidSegLib.bundle import Bundle
from CovidSegLib.errors import CovidSegError, InputError
from CovidSegLib.labels import Label
from CovidSegLib.uncertainty import entropy, tempered

from .data import MEASURED_ONLY, LabelledCases
from .decision import decide
from .label_records import find_label_records
from .lung_voxels import LungVoxels, lung_voxels

BINS = 15
#: Temperatures that are tried.
TEMPERATURES = (0.2, 10.0)

Group = Literal["training", "measured only"]
GROUPS: tuple[Group, ...] = ("training", "measured only")


@dataclass(frozen=True)
class Reliability:
    """How often infection is true, by the probability that was given to it.

    Attributes:
        count: (bins,) voxels whose probability falls into each of the equal bins of 0 to 1.
        predicted: (bins,) sum of the probabilities in the bin.
        infected: (bins,) voxels in the bin that are infected.
    """

    count: np.ndarray
    predicted: np.ndarray
    infected: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, infected: np.ndarray, *, bins: int = BINS) -> Reliability:
        """Return the diagram of (n,) probabilities and (n,) bool; 1 belongs to the last bin."""
        index = np.minimum((probability * bins).astype(np.int64), bins - 1)
        return cls(
            count=np.bincount(index, minlength=bins),
            predicted=np.bincount(index, weights=probability, minlength=bins),
            infected=np.bincount(index, weights=infected, minlength=bins),
        )

    @property
    def expected_error(self) -> float:
        """Expected calibration error: |mean probability - share infected| of each bin, averaged over the voxels."""
        return float(np.abs(self.predicted - self.infected).sum() / self.count.sum())

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return `count`, mean `probability` and share `infected` per bin; None for an empty one."""
        shares = {"probability": self.predicted, "infected": self.infected}
        of_bins = {
            key: [float(s / n) if n else None for s, n in zip(sums, self.count, strict=True)]
            for key, sums in shares.items()
        }
        return {"count": self.count.tolist(), **of_bins}


def find_labelled(data_dir: Path, *, only: Sequence[str] = ()) -> dict[str, Group]:
    """Return the labelled cases and what each may be used for.

    Raises:
        InputError: A case of `only` is not there, or none is left on which a temperature may be fitted.
    """
    folder = data_dir / LabelledCases().folder
    names = sorted(path.parent.name for path in folder.glob("*/segmentation.nii.gz"))
    if unknown := sorted(set(only) - set(names)):
        raise InputError(f"no labelled case '{unknown[0]}' in {folder}; there are: {', '.join(names) or 'none'}")
    cases: dict[str, Group] = {
        name: "measured only" if name in MEASURED_ONLY else "training" for name in names if not only or name in only
    }
    if "training" not in cases.values():
        raise InputError(f"{folder}: no case of the training is chosen; a temperature may be fitted on no other")
    return cases


def calibrate(
    data_dir: Path,
    *,
    bundle: Bundle,
    mode: str = "accurate",
    device: str = "cpu",
    only: Sequence[str] = (),
    tell: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Fit a temperature; return it with all figures, as plain values.

    Args:
        data_dir: Holds the folder of labelled cases.
        bundle: The model; its own temperature is not used.
        mode: Of `segment`.
        device: Of `resolve_device`.
        only: Names of cases; empty: all.
        tell: Called with a line per case.

    Returns:
        `temperature`; `cases` and `groups` with the figures of `measure` (a case that failed has a text as `error`
        instead; a case on record `by_radiologists`, the share that they must have called infected); `reliability`, the
        diagram of each group before and after; `decision`, see `decide`.

    Raises:
        InputError: See `find_labelled`; or all cases of the training failed.
    """
    cases, folder = find_labelled(data_dir, only=only), data_dir / LabelledCases().folder
    voxels: dict[str, LungVoxels] = {}
    failures: dict[str, str] = {}
    for name in cases:
        try:
            voxels[name] = lung_voxels(folder / name, bundle=bundle, mode=mode, device=device)
            tell(f"{name}: {voxels[name].truth.size} voxels in the lungs")
        except CovidSegError as error:
            failures[name] = str(error)
            tell(f"{name}: FAILED: {error}")
    parts = {group: [voxels[name] for name in voxels if cases[name] == group] for group in GROUPS}
    if not parts["training"]:
        raise InputError(f"no temperature can be fitted, as every case of the training failed: {failures}")
    temperature = fit_temperature(parts["training"])
    together = {group: LungVoxels.together(found) for group, found in parts.items() if found}
    records = find_label_records(data_dir)
    rows: list[dict[str, Any]] = []
    for name, group in cases.items():
        figures = measure(voxels[name], temperature=temperature) if name in voxels else {}
        if figures and name in records:
            figures["by_radiologists"] = figures["infected"] * records[name].volume_ratio
        rows.append({"name": name, "group": group, "error": failures.get(name), **figures})
    return {
        "temperature": temperature,
        "cases": rows,
        "groups": {group: measure(found, temperature=temperature) for group, found in together.items()},
        "reliability": {
            group: {when: reliability(found, temperature=t).to_dict() for when, t in _both(temperature)}
            for group, found in together.items()
        },
        "decision": decide(voxels, groups=cases),
    }


def fit_temperature(parts: Sequence[LungVoxels]) -> float:
    """Return the temperature with the least negative log likelihood of infected or not, over all voxels alike."""
    from scipy.optimize import minimize_scalar

    def cost(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        costs = (negative_log_likelihood(part, temperature=temperature) for part in parts)
        return sum(float(of_voxels.sum(dtype=np.float64)) for of_voxels in costs)

    lower, upper = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(cost, bounds=(lower, upper), method="bounded", options={"xatol": 1e-3}).x))


def negative_log_likelihood(voxels: LungVoxels, *, temperature: float) -> np.ndarray:
    """Return minus the logarithm of the probability given to what the labels say, infected or not, per voxel."""
    infection = infection_probability(voxels, temperature=temperature)
    given = np.where(voxels.infected, infection, 1.0 - infection)
    # A probability below what float32 tells from 0 costs no more than that.
    return np.asarray(-np.log(np.maximum(given, np.finfo(np.float32).eps)))


def infection_probability(voxels: LungVoxels, *, temperature: float) -> np.ndarray:
    """Return the (n,) probability of infection at a temperature."""
    return tempered(voxels.probabilities, temperature=temperature)[Label.INFECTION]


def measure(voxels: LungVoxels, *, temperature: float) -> dict[str, Any]:
    """Return the figures of some voxels as plain values.

    `voxels`; the shares `infected` by the labels, `called` infected by the bundle, and of `disagreement` between both;
    then `before` and `after` the temperature: `ece`, `brier` and `nll` of the infection probability, and
    `separation` by the entropy in all the lungs (`entropy`), and away from their border (`entropy_deep`), where
    doubt and disagreement do not simply follow the outline.
    """
    wrong = voxels.truth != voxels.found
    figures: dict[str, Any] = {
        "voxels": int(wrong.size),
        "infected": float(voxels.infected.mean()),
        "called": float(voxels.called.mean()),
        "disagreement": float(wrong.mean()),
    }
    for when, t in _both(temperature):
        infection = infection_probability(voxels, temperature=t)
        doubt = entropy(voxels.probabilities[:, None], temperature=t)[0]
        figures[when] = {
            "ece": reliability(voxels, temperature=t).expected_error,
            "brier": float(((infection - voxels.infected) ** 2).mean()),
            "nll": float(negative_log_likelihood(voxels, temperature=t).mean()),
            "entropy": separation(doubt, wrong),
            "entropy_deep": separation(doubt[voxels.deep], wrong[voxels.deep]),
        }
    return figures


def separation(doubt: np.ndarray, wrong: np.ndarray) -> dict[str, float | None]:
    """Return the mean doubt where the labels agree, and where not, and the AUROC of doubt for telling which.

    None stands for what is undefined, as all agree or none.

    Args:
        doubt: (n,) float.
        wrong: (n,) bool.
    """
    from sklearn.metrics import roc_auc_score

    agreeing, disagreeing = doubt[~wrong], doubt[wrong]
    return {
        "agreeing": float(agreeing.mean()) if agreeing.size else None,
        "disagreeing": float(disagreeing.mean()) if disagreeing.size else None,
        "auroc": float(roc_auc_score(wrong, doubt)) if agreeing.size and disagreeing.size else None,
    }


def reliability(voxels: LungVoxels, *, temperature: float) -> Reliability:
    """Return the reliability diagram of the infection probability at a temperature."""
    return Reliability.of(infection_probability(voxels, temperature=temperature), voxels.infected)


def _both(temperature: float) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("before", 1.0), ("after", temperature)
