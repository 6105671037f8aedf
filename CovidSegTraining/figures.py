"""The paper's figure 4 (loss over the epochs of all folds) and figure 5 (scores over all cases)."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from CovidSegLib.errors import InputError

from .experiment.case_scores import CLASSES, CaseScores
from .whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The smoothing uses a random sample (seeded) of this many epochs of all folds, because its cost grows with the cube.
SMOOTHED_POINTS = 300
#: Length scales along the fold axis: practically infinite for what all folds share, zero for what each has for itself.
_ALL_FOLDS, _ONE_FOLD = 1e4, 1e-3
TRAINING_COLOR, VALIDATION_COLOR = "#c0392b", "#1f77b4"
CLASS_COLORS = {"background": "#9a9a9a", "lung_L": "#5b97e5", "lung_R": "#3fb7cc", "infection": "#d9383a"}
CLASS_NAMES = {"background": "background", "lung_L": "left lung", "lung_R": "right lung", "infection": "infection"}
BOXED_SCORES = {"DSC": "Dice", "Sens": "sensitivity", "Spec": "specificity"}
DPI = 300


@dataclass(frozen=True)
class History:
    """The losses of a fold, an entry per epoch.

    Attributes:
        name: Where it comes from, e.g. "fold_0".
        epochs: (n,) counted from 1.
        training: (n,) loss on the training cases.
        validation: (n,) loss on the held-out cases; NaN where it was not measured.
    """

    name: str
    epochs: np.ndarray
    training: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class SmoothCurve:
    """A loss over epochs, smoothed.

    Attributes:
        epochs: (n,) every epoch up to the longest fold's last.
        loss: (n,) smoothed loss.
        low: (n,) lower end of the 95 % confidence band of the curve that the folds have in common.
        high: (n,) upper end.
    """

    epochs: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def find_histories(folder: Path) -> list[History]:
    """Return the histories below a folder, `history*.tsv` and `history*.csv`, in the order of their folds.

    Raises:
        InputError: There is none, one is damaged, or a fold has two, as below a folder of several runs.
    """
    paths = [path for kind in ("tsv", "csv") for path in folder.rglob(f"history*.{kind}")]
    if not paths:
        raise InputError(f"{folder}: no history.fold_*.tsv and no history*.csv; give the folder of the training runs")
    histories = [read_history(path) for path in sorted(paths, key=lambda path: _fold_order(path.relative_to(folder)))]
    names = [history.name for history in histories]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{folder}: {names.count(twice[0])} histories of {twice[0]}; give the folder of one run")
    return histories


def read_history(path: Path) -> History:
    """Return the losses in a table with the columns `epoch`, `loss` and `val_loss`, by tabs or commas.

    Raises:
        InputError: The file is missing or damaged; the text names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no table of text ({error}); give a history as 'fit' writes it") from error
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    columns = ("epoch", "loss", "val_loss")
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise InputError(f"{path}: no column '{missing[0]}' in the first line")
    rows = []
    for row in reader:
        try:
            if None in row.values():
                raise ValueError("the line is cut short")
            rows.append([float(row[name] or math.nan) for name in columns])
            if not (rows[-1][0] > 0 and rows[-1][1] > 0):
                raise ValueError("epoch and loss must be above 0")
        except ValueError as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise InputError(f"{path}: no epochs below the first line")
    epochs, training, validation = np.array(rows).T
    fold = re.search(r"fold_\d+", "/".join(path.parts[-2:]))
    return History(fold[0] if fold else path.parent.name, epochs, training, validation)


def smooth_losses(epochs: np.ndarray, losses: np.ndarray, *, folds: np.ndarray) -> SmoothCurve:
    """Return losses of several folds as one curve, by Gaussian-process regression of log loss on log epoch.

    Losses fall fast at first and slowly later, and scatter in proportion to their size; in logarithms, fall and scatter
    are even, as the process assumes. A fold stays above or below the others for many epochs, so its epochs must not be
    taken for independent: the process is the sum of a common curve, each fold's smooth deviation from it, and noise.

    Args:
        epochs: (n,) from 1.
        losses: (n,) above 0.
        folds: (n,) whole numbers from 0, the fold of each loss.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    taken = _thinned(epochs)
    log_losses = np.log(losses[taken])
    # The second coordinate is the fold: the common term is constant along it, the folds' own terms are independent.
    common, own = (
        RBF([1.0, reach], length_scale_bounds=[(0.2, 10.0), (reach, reach)]) for reach in (_ALL_FOLDS, _ONE_FOLD)
    )
    kernel = ConstantKernel(1.0) * common + ConstantKernel(0.1) * own + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, normalize_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # length scales over folds are fixed, thus at their bounds
        process.fit(np.stack([np.log(epochs[taken]), folds[taken]], axis=1), log_losses)
    grid = np.arange(1, int(epochs.max()) + 1)
    new_fold = np.full(len(grid), -1.0)
    log_loss, deviation = process.predict(np.stack([np.log(grid), new_fold], axis=1), return_std=True)
    # The prediction is for a new fold; without its own deviation and noise, the common curve's uncertainty is left.
    added = (process.kernel_.k1.k2.k1.constant_value + process.kernel_.k2.noise_level) * log_losses.var()
    deviation = np.sqrt(np.maximum(deviation**2 - added, 0.0))
    return SmoothCurve(grid, *(np.exp(log_loss + factor * deviation) for factor in (0.0, -1.96, 1.96)))


def _thinned(epochs: np.ndarray) -> np.ndarray:
    """Return indices of at most `SMOOTHED_POINTS` losses, evenly over log epoch; the same for the same epochs."""
    if len(epochs) <= SMOOTHED_POINTS:
        return np.arange(len(epochs))
    share = 1.0 / epochs
    return np.random.default_rng(0).choice(len(epochs), SMOOTHED_POINTS, replace=False, p=share / share.sum())


def draw_losses(histories: Sequence[History]) -> Figure:
    """Return figure 4: the smoothed losses of training and validation, over those of the single folds."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, [panel] = _figure(1, size_inches=(7.0, 4.2))
    sides: list[tuple[str, str, list[np.ndarray]]] = [
        ("training", TRAINING_COLOR, [history.training for history in histories]),
        ("validation", VALIDATION_COLOR, [history.validation for history in histories]),
    ]
    for name, color, losses in sides:
        for history, loss in zip(histories, losses, strict=True):
            panel.plot(history.epochs, loss, color=color, linewidth=0.4, alpha=0.28, zorder=1)
        pooled, epochs = np.concatenate(losses), np.concatenate([history.epochs for history in histories])
        folds = np.repeat(np.arange(len(losses)), [len(loss) for loss in losses])
        measured = (pooled > 0) & np.isfinite(pooled)
        if not measured.any():
            continue
        curve = smooth_losses(epochs[measured], pooled[measured], folds=folds[measured])
        panel.fill_between(curve.epochs, curve.low, curve.high, color=color, alpha=0.22, linewidth=0, zorder=2)
        panel.plot(curve.epochs, curve.loss, color=color, linewidth=1.8, label=name, zorder=3)
    panel.set(xlabel="epoch", ylabel="loss", yscale="log")
    panel.set_xlim(0, max(history.epochs[-1] for history in histories) * 1.03)
    panel.set_ylim(bottom=panel.get_ylim()[0] * 0.8)
    _mark_ends(panel, histories)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.legend(
        frameon=False, loc="upper right", title=f"{len(histories)} folds, smoothed, 95 % band", title_fontsize=9
    )
    return figure


def draw_score_boxes(cases: Sequence[CaseScores]) -> Figure:
    """Return figure 5: box plots per class over all cases, with the cases as points."""
    figure, axes = _figure(len(BOXED_SCORES), size_inches=(8.4, 3.6), sharey=True)
    scatter = np.linspace(-0.16, 0.16, 7)
    for panel, (score, title) in zip(axes, BOXED_SCORES.items(), strict=True):
        for position, name in enumerate(CLASSES):
            values = np.array([case.values[score][name] for case in cases])
            values = np.sort(values[~np.isnan(values)])
            color = CLASS_COLORS[name]
            panel.boxplot(
                [values],
                positions=[position],
                widths=0.6,
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": color, "alpha": 0.45, "linewidth": 0.8},
                medianprops={"color": "black", "linewidth": 1.4},
                whiskerprops={"linewidth": 0.8},
                capprops={"linewidth": 0.8},
            )
            shifts = np.resize(scatter[[3, 0, 5, 2, 6, 1, 4]], len(values))
            panel.plot(position + shifts, values, "o", markersize=2.6, color=color, markeredgecolor="black", mew=0.3)
        panel.set_title(title, fontsize=10)
        panel.set_xticks(range(len(CLASSES)), list(CLASS_NAMES.values()), rotation=30, ha="right")
        panel.set_ylim(-0.03, 1.03)
        panel.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes[0].set_ylabel(f"score ({len(cases)} cases)")
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, stream.getvalue())


def _figure(columns: int, *, size_inches: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side, with no state outside of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    panels = list(figure.subplots(1, columns, squeeze=False, **options)[0])
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, panels


def _mark_ends(panel: Axes, histories: Sequence[History]) -> None:
    """Mark below the curves where each fold's training ended; folds count from 1, as in the tables."""
    for number, history in enumerate(histories, start=1):
        panel.axvline(history.epochs[-1], ymax=0.03, color="black", linewidth=0.8)
        _write_below(panel, str(number), epoch=history.epochs[-1], align="center")
    first = min(history.epochs[-1] for history in histories)
    _write_below(panel, "last epoch of fold", epoch=first - 0.02 * panel.get_xlim()[1], align="right")


def _write_below(panel: Axes, text: str, *, epoch: float, align: Literal["center", "right"]) -> None:
    panel.annotate(text, (epoch, 0.035), xycoords=("data", "axes fraction"), ha=align, fontsize=7)


def _fold_order(path: Path) -> tuple[Iterable[int], str]:
    return [int(number) for number in re.findall(r"\d+", str(path))], str(path)
