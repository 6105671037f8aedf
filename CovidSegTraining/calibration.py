"""How far the infection probability can be believed, and whether the network is unsure where it is wrong.

The labels are the paper's model's, so all figures here are agreement with that model. The temperature is fitted on
training cases only; the cases that are only ever measured (`data.MEASURED_ONLY`) are reported next to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from CovidSegLib.bundle import Bundle
from CovidSegLib.errors import CovidSegError, InputError
from CovidSegLib.labels import Label
from CovidSegLib.uncertainty import entropy, tempered

from .data import LABELLED_FOLDER, MEASURED_ONLY
from .quality.decision import decide
from .quality.label_records import LabelRecord, find_label_records
from .quality.lung_voxels import LungVoxels, lung_voxels

BINS = 15
#: Range in which the temperature is searched.
TEMPERATURES = (0.2, 10.0)

Group = Literal["training", "measured only"]
GROUPS: tuple[Group, ...] = ("training", "measured only")


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: how often voxels are infected, by the probability of infection they were given.

    Attributes:
        count: (bins,) number of voxels in each of the equally wide bins of probability, 0 to 1.
        predicted: (bins,) sum of the probabilities in each bin.
        infected: (bins,) number of infected voxels in each bin.
    """

    count: np.ndarray
    predicted: np.ndarray
    infected: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, infected: np.ndarray, *, bins: int = BINS) -> Reliability:
        """Return the diagram of (n,) probabilities and (n,) bool; a probability of 1 belongs to the last bin."""
        index = np.minimum((probability * bins).astype(np.int64), bins - 1)
        return cls(
            count=np.bincount(index, minlength=bins),
            predicted=np.bincount(index, weights=probability, minlength=bins),
            infected=np.bincount(index, weights=infected, minlength=bins),
        )

    @property
    def expected_error(self) -> float:
        """Expected calibration error: |mean probability - share infected| of each bin, averaged over all voxels."""
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
    """Return the labelled cases, by name, and the group of each: what it may be used for.

    Raises:
        InputError: A case of `only` is not there, or no training case is left to fit a temperature on.
    """
    folder = data_dir / LABELLED_FOLDER
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
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Fit a temperature; return it with all figures, as plain values.

    Args:
        data_dir: Data folder, in which the folder of labelled cases lies.
        bundle: The model; the temperature in its metadata is not used.
        mode: As for `segment`.
        device: As for `resolve_device`.
        only: Names of the cases to use; empty: all.
        tell: Called with a line per case.

    Returns:
        `temperature`; `cases` and `groups`, each with the figures of `measure`; `reliability`, the diagram of each
        group before and after; `decision`, see `decide`. A case that failed has an `error` instead of figures. A case
        with a label record has `by_radiologists`, too: the share of its lungs that radiologists must have called
        infected.

    Raises:
        InputError: As for `find_labelled`; or every training case failed.
    """
    cases = find_labelled(data_dir, only=only)
    voxels: dict[str, LungVoxels] = {}
    failures: dict[str, str] = {}
    for name in cases:
        try:
            voxels[name] = lung_voxels(data_dir / LABELLED_FOLDER / name, bundle=bundle, mode=mode, device=device)
            tell(f"{name}: {voxels[name].truth.size} voxels in the lungs")
        except CovidSegError as error:
            failures[name] = str(error)
            tell(f"{name}: FAILED: {error}")
    parts = {group: [voxels[name] for name in voxels if cases[name] == group] for group in GROUPS}
    if not parts["training"]:
        raise InputError(f"no temperature can be fitted, as every case of the training failed: {failures}")
    temperature = fit_temperature(parts["training"])
    together = {group: LungVoxels.together(found) for group, found in parts.items() if found}
    return {
        "temperature": temperature,
        "cases": _case_rows(
            cases, voxels, failures=failures, temperature=temperature, records=find_label_records(data_dir)
        ),
        "groups": {group: measure(found, temperature=temperature) for group, found in together.items()},
        "reliability": {
            group: {when: reliability(found, temperature=t).to_dict() for when, t in _both(temperature)}
            for group, found in together.items()
        },
        "decision": decide(voxels, groups=cases),
    }


def _case_rows(
    cases: Mapping[str, Group],
    voxels: Mapping[str, LungVoxels],
    *,
    failures: Mapping[str, str],
    temperature: float,
    records: Mapping[str, LabelRecord],
) -> list[dict[str, Any]]:
    """Return name, group, error and figures of each case."""
    rows: list[dict[str, Any]] = []
    for name, group in cases.items():
        figures = measure(voxels[name], temperature=temperature) if name in voxels else {}
        if figures and name in records:
            figures["by_radiologists"] = figures["infected"] * records[name].volume_ratio
        rows.append({"name": name, "group": group, "error": failures.get(name), **figures})
    return rows


def fit_temperature(parts: Sequence[LungVoxels]) -> float:
    """Return the temperature with the lowest negative log likelihood of infected or not, over all voxels."""
    from scipy.optimize import minimize_scalar

    def cost(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        costs = (negative_log_likelihood(part, temperature=temperature) for part in parts)
        return sum(float(of_voxels.sum(dtype=np.float64)) for of_voxels in costs)

    lower, upper = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(cost, bounds=(lower, upper), method="bounded", options={"xatol": 1e-3}).x))


def negative_log_likelihood(voxels: LungVoxels, *, temperature: float) -> np.ndarray:
    """Return for each voxel minus the logarithm of the probability given to its label, infected or not."""
    infection = infection_probability(voxels, temperature=temperature)
    given = np.where(voxels.infected, infection, 1.0 - infection)
    # Bounded, because a single certain and wrong voxel would otherwise cost infinitely much.
    return np.asarray(-np.log(np.maximum(given, np.finfo(np.float32).eps)))


def infection_probability(voxels: LungVoxels, *, temperature: float) -> np.ndarray:
    """Return the (n,) probability of infection at a temperature."""
    return tempered(voxels.probabilities, temperature=temperature)[Label.INFECTION]


def measure(voxels: LungVoxels, *, temperature: float) -> dict[str, Any]:
    """Return the figures of some voxels as plain values.

    They are the number of `voxels`; the shares that are `infected` by the labels, `called` infected by the bundle, and
    in `disagreement`; and, `before` and `after` the temperature, `ece`, `brier` and `nll` of the infection probability,
    with the `separation` by entropy in all of the lungs (`entropy`) and away from their border (`entropy_deep`), where
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
    """Return the mean doubt where the labels agree and where not, and how well doubt tells the two apart (AUROC).

    Where all voxels agree, or none does, what is undefined is None.

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
