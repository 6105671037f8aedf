"""A recipe and cases small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from CovidSegLib.geometry import Geometry
from helpers_training import write_nifti

from CovidSegTraining import figures
from CovidSegTraining.experiment import figure_pictures, run_folder
from CovidSegTraining.experiment.cache import PreparedCase
from CovidSegTraining.experiment.config import PAPER, Experiment, experiment_from

GEOMETRY = Geometry(size_ijk=(24, 24, 24), spacing_ijk_mm=(3.0, 3.0, 3.0))

TINY = {
    "preprocessing.spacing_ijk_mm": [3.0, 3.0, 3.0],
    "patches.size_ijk": [32, 16, 16],
    "network.options": {"width": 2},
    "training.epochs": 3,
    "training.batches_per_epoch": 2,
    "prediction.overlap_ijk": [16, 8, 8],
}


def paper_values() -> dict[str, Any]:
    """Return the paper's recipe in plain values."""
    values: dict[str, Any] = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    return values


def tiny_values(**changes: Any) -> dict[str, Any]:
    """Return the paper's recipe on a small scale; `changes` by path, with `__` for a dot."""
    values = paper_values()
    for path, value in {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        *groups, name = path.split(".")
        target = values["experiment"]
        for group in groups:
            target = target[group]
        target[name] = value
    return values


def tiny_recipe(**changes: Any) -> Experiment:
    """Return `tiny_values` as a recipe."""
    return experiment_from(tiny_values(**changes))


def ball_labels(*, seed: int, size: int = 24) -> np.ndarray:
    """Return a left and a right lung (balls at high and low i) and an infection in the left one, (k, j, i) uint8."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.indices((size,) * 3), axis=-1)
    labels = np.zeros((size,) * 3, dtype=np.uint8)
    for label, place, radius in ((1, 0.72, 0.24), (2, 0.26, 0.24), (3, 0.72, 0.13)):
        center = np.array([0.5, 0.5, place]) * size + rng.uniform(-1, 1, 3)
        labels[((points - center) ** 2).sum(axis=-1) < (radius * size) ** 2] = label
    return labels


def write_case(folder: Path, *, seed: int, geometry: Geometry = GEOMETRY) -> np.ndarray:
    """Write `imaging.nii.gz` and `segmentation.nii.gz` of a `ball_labels` patient; return the HU."""
    labels = ball_labels(seed=seed)
    noise = np.random.default_rng(seed).normal(0, 10, labels.shape)
    hu = (np.choose(labels, [40, -850, -850, -300]) + noise).astype(np.int16)
    write_nifti(folder / "imaging.nii.gz", hu, geometry=geometry)
    write_nifti(folder / "segmentation.nii.gz", labels, geometry=geometry)
    return hu


def write_cases(root: Path, *, count: int = 3) -> Path:
    """Write the cases `case_0`, `case_1`, ...; return `root`."""
    for seed in range(count):
        write_case(root / f"case_{seed}", seed=seed)
    return root


def ball_cases(count: int = 3) -> list[PreparedCase]:
    """Return prepared cases `case_0`, `case_1`, ..."""
    cases = []
    for seed in range(count):
        labels = ball_labels(seed=seed)
        image = np.random.default_rng(seed).normal(np.choose(labels, [1.0, -1.0, -1.0, 0.0]), 0.1)
        cases.append(PreparedCase(f"case_{seed}", image.astype(np.float32), labels, f"key {seed}"))
    return cases


def spare_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test TensorBoard's import and the figures, which take longer than all else.

    A figure's file holds what was drawn instead: the number of histories, cases or rows.
    """
    monkeypatch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)
    monkeypatch.setattr(figures, "draw_losses", lambda histories: len(histories))
    monkeypatch.setattr(figures, "draw_score_boxes", lambda cases: len(cases))
    monkeypatch.setattr(figure_pictures, "draw_pictures", lambda rows, *, truth_heading: len(rows))
    monkeypatch.setattr(figures, "save_figure", lambda path, count: path.write_text(str(count)))
