"""The folder of a training run: recipe, origin, history, checkpoints. Every file is written whole or not at all.

recipe.yaml              every setting
run.json                 fold, cases and their keys, device, seed, versions, commit, and whether files differ from it
history.fold_K.tsv       a row per epoch, in the columns of the paper's histories
tensorboard/             the same for TensorBoard, where it is installed
last.pt, previous.pt     the latest two checkpoints, to continue from
best.pt                  the weights with the lowest training loss
"""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import InputError

from ..checkpoint import read_state, write_state
from ..settings import first_difference
from ..whole_files import write_whole
from .config import Experiment, read_experiment
from .loss import METRICS
from .schedule import EarlyStopping

#: Columns of a history, as in the paper's.
COLUMNS = ("epoch", *METRICS, *(f"val_{name}" for name in METRICS), "lr")

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


class RunFolder:
    """A training run on disk.

    Attributes:
        path: The folder.
        fold: Which fold is trained, from 0.
    """

    def __init__(self, path: Path, *, fold: int) -> None:
        self.path, self.fold = path, fold
        self._tensorboard: Any = None
        self._seen: int | None = None  # the latest checkpoint, as it was read or written here

    def begin(self, recipe: Experiment, *, origin: Mapping[str, Any]) -> None:
        """Write recipe and origin; if the folder has them already, make sure that they are the same.

        Args:
            recipe: The settings.
            origin: What else the outcome depends on, in plain values: cases and their keys, device, processes.

        Raises:
            InputError: The folder holds another run, or another one is writing to it.
        """
        described = self.path / "run.json"
        if not described.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            with run_lock(self.path):
                if not described.exists():  # still
                    self._describe(described, recipe=recipe, origin=origin)
                    return
        self._check_same(recipe, origin=origin)

    def _describe(self, described: Path, *, recipe: Experiment, origin: Mapping[str, Any]) -> None:
        import yaml

        write_whole(self.path / "recipe.yaml", yaml.safe_dump(recipe.to_plain(), sort_keys=False).encode())
        values = {"fold": self.fold, "origin": origin, "seed": recipe.training.seed, **_surroundings()}
        write_whole(described, (json.dumps(values, indent=2) + "\n").encode())

    def save(self, state: Mapping[str, Any], *, best: Mapping[str, Any] | None) -> None:
        """Write a checkpoint and keep the one before it; write the best weights, too, unless `best` is None.

        Raises:
            OSError: The disk is full, for instance; the earlier files are still there.
        """
        if best is not None:
            write_state(self.path / BEST, best)
        write_state(self.path / LAST, state, keep_as=self.path / PREVIOUS)
        self._seen = _stamp(self.path / LAST)

    def load(self) -> dict[str, Any] | None:
        """Return the latest checkpoint, on the CPU; None if there is none.

        Raises:
            ModelError: It is damaged; the text says how to go on.
        """
        last, previous = self.path / LAST, self.path / PREVIOUS
        self._seen = _stamp(last)
        # Without the last one, the process was killed between the two renames of `write_state`.
        path = last if last.exists() else previous
        if not path.exists():
            return None
        remedy = "delete it to continue from the epoch before" if previous.exists() else "delete it to begin again"
        return read_state(path, remedy=remedy if path == last else "delete it to begin again", needed="optimizer")

    def check_unchanged(self) -> None:
        """Raise InputError if another run has written a checkpoint since `load` or `save`; to be called locked."""
        if _stamp(self.path / LAST) != self._seen:
            raise InputError(f"{self.path}: another run has trained here meanwhile; run the same command again")

    def write_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the history of all epochs so far, and its last row for TensorBoard."""
        self.keep_history(rows)
        if self._tensorboard is None:
            self._tensorboard = _summary_writer(self.path / "tensorboard", first_epoch=int(rows[-1]["epoch"]))
        if self._tensorboard:
            for name in COLUMNS[1:]:
                self._tensorboard.add_scalar(name, rows[-1][name], int(rows[-1]["epoch"]))
            self._tensorboard.flush()

    def keep_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Make the history that of these epochs if it is another one, or was deleted: the checkpoint has it, too."""
        path = self.path / f"history.fold_{self.fold}.tsv"
        lines = ["\t".join(COLUMNS), *("\t".join(str(row[name]) for name in COLUMNS) for row in rows)]
        content = ("\n".join(lines) + "\n").encode()
        if rows and not (path.exists() and path.read_bytes() == content):
            write_whole(path, content)

    def close(self) -> None:
        """Close the record for TensorBoard."""
        if self._tensorboard:
            self._tensorboard.close()
        self._tensorboard = None

    def _check_same(self, recipe: Experiment, *, origin: Mapping[str, Any]) -> None:
        values = read_run(self.path)
        if values.get("fold") != self.fold:
            raise InputError(f"{self.path}: holds fold {values.get('fold')}, not {self.fold}; choose another folder")
        check_same_recipe(self.path, recipe)
        before, now = values["origin"], json.loads(json.dumps(origin))
        if before != now:
            differing = next((key for key in now if before.get(key) != now[key]), "origin")
            if differing in ("training", "validation"):
                differing += " cases, or one has changed since"
            raise InputError(f"{self.path}: begun with other {differing}; choose another folder")


def check_same_recipe(folder: Path, recipe: Experiment) -> None:
    """Make sure that a folder was begun with this recipe.

    Raises:
        InputError: It was begun with another; the text names the first setting that differs.
        SettingsError: Its recipe is missing or damaged.
    """
    before = read_experiment(folder / "recipe.yaml")
    if before == recipe:
        return
    key, was, is_now = first_difference(before.to_plain(), recipe.to_plain())
    raise InputError(
        f"{folder}: begun with another recipe ({key} is {was!r} in recipe.yaml there, {is_now!r} here); "
        "choose another folder"
    )


def read_run(path: Path) -> dict[str, Any]:
    """Return what `run.json` of a run folder says.

    Raises:
        InputError: There is none, or it is damaged.
    """
    try:
        values: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if not all(isinstance(values["origin"][side], dict) for side in ("training", "validation")):
            raise ValueError("its cases are missing")
    except OSError as error:
        raise InputError(f"{path}: no training run ({error.strerror}: run.json); give the folder of a 'fit'") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'run.json'}: damaged ({error}); choose another folder") from error
    return values


class RunProgress(NamedTuple):
    """How many epochs a run has done, and whether it is at its end."""

    epochs: int
    at_end: bool


def progress_of(path: Path, *, recipe: Experiment) -> RunProgress | None:
    """Return how far a run has come; None if it has no history.

    Raises:
        InputError: `run.json` or the history is damaged.
    """
    if not (path / "run.json").exists():
        return None
    history = path / f"history.fold_{read_run(path).get('fold')}.tsv"
    if not history.exists():
        return None
    stopping = EarlyStopping(patience=recipe.training.early_stopping_patience)
    try:
        rows = list(csv.DictReader(history.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
        for row in rows:
            stopping.end_epoch(float(row["loss"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{history}: damaged ({error}); delete it: without it, the folder still predicts") from error
    return RunProgress(len(rows), at_end=stopping.stops or len(rows) >= recipe.training.epochs)


def _stamp(path: Path) -> int | None:
    """Return what tells a file from one that has replaced it; None if there is no file."""
    return path.stat().st_mtime_ns if path.exists() else None


def _surroundings() -> dict[str, Any]:
    """Return the versions of the libraries, and the commit that this code lies in (null outside of a repository)."""
    from CovidSegLib.runtime import versions

    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": versions(),
        "git": {"commit": git("rev-parse", "HEAD"), "changed": None if changed is None else bool(changed)},
    }


def _summary_writer(folder: Path, *, first_epoch: int) -> Any:
    """Return TensorBoard's writer; False if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder), purge_step=first_epoch)  # type: ignore[no-untyped-call]
