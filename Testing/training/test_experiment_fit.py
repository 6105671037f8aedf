from __future__ import annotations

import csv
import errno
import json
from contextlib import nullcontext
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from CovidSegLib.errors import DeviceError, InputError, ModelError
from helpers_experiment import ball_cases, tiny_recipe

from CovidSegTraining import checkpoint
from CovidSegTraining.experiment import fit as experiment_fit
from CovidSegTraining.experiment import run_folder
from CovidSegTraining.experiment.cache import PreparedCase
from CovidSegTraining.experiment.config import Experiment, read_experiment
from CovidSegTraining.experiment.fit import ExperimentFit
from CovidSegTraining.experiment.run_folder import COLUMNS
from CovidSegTraining.experiment.world import World
from CovidSegTraining.networks import SIZE_MULTIPLE, build_experiment_network
from CovidSegTraining.splits import Fold

CASES = ball_cases()
FOLD = Fold(("case_0", "case_1"), ("case_2",))


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Spare the tests TensorBoard's import, but for the one about it."""
    if "tensorboard" not in request.node.name:
        monkeypatch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)


def _fit(folder: Path, recipe: Experiment | None = None, **options: Any) -> ExperimentFit:
    given = {"cases": CASES, "fold": FOLD, "fold_number": 1, "device": "cpu", **options}
    return ExperimentFit(folder, recipe=recipe or tiny_recipe(), **given)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.fold_1.tsv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.parametrize("dropout", [0.0, 0.5])  # the only draw from torch's own generators
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    def build(name: str, **options: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Dropout(dropout), build_experiment_network(name, **options))

    monkeypatch.setattr(experiment_fit, "build_experiment_network", build)
    changes = {"training__plateau__patience": 1, "optimizer__decay": 0.1}
    recipe = tiny_recipe(training__epochs=3, training__batches_per_epoch=2, **changes)
    whole = _fit(tmp_path / "whole", recipe)
    whole.run()
    for epochs in (1, 1, 1):
        torch.manual_seed(epochs)  # what happens between does not matter
        _fit(tmp_path / "parts", recipe).run(epochs=epochs)
    parts = _fit(tmp_path / "parts", recipe)
    assert whole.finished and parts.finished and parts.epoch == 3
    assert parts.history == whole.history
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(parts.network.state_dict()[name], tensor), name
    for file in ("history.fold_1.tsv", "recipe.yaml", "run.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_interruption_within_an_epoch_repeats_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _fit(tmp_path / "whole")
    whole.run()
    broken = _fit(tmp_path / "parts")
    step, steps = ExperimentFit.train_batch, iter(range(3))

    def stops_in_the_second_epoch(self: ExperimentFit, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(self, image, labels)

    monkeypatch.setattr(ExperimentFit, "train_batch", stops_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    monkeypatch.undo()
    monkeypatch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)
    resumed = _fit(tmp_path / "parts")
    assert resumed.epoch == 1
    resumed.run()
    assert resumed.history == whole.history


def test_loss_falls(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        network__options={"width": 4}, optimizer__learning_rate=1e-2, training__epochs=4, training__batches_per_epoch=5
    )
    fit = _fit(tmp_path, replace(recipe, augmentation=None))
    fit.run()
    assert fit.history[-1]["loss"] < 0.8 * fit.history[0]["loss"]
    assert fit.history[-1]["dice_soft"] > fit.history[0]["dice_soft"]


def test_history_has_the_papers_columns(tmp_path: Path) -> None:
    told: list[str] = []
    _fit(tmp_path, tiny_recipe(training__epochs=2)).run(tell=told.append)
    rows = _rows(tmp_path)
    assert tuple(rows[0]) == COLUMNS and [row["epoch"] for row in rows] == ["1", "2"]
    assert (
        *("epoch", "loss", "tversky_loss", "dice_soft", "dice_crossentropy"),
        *("val_loss", "val_tversky_loss", "val_dice_soft", "val_dice_crossentropy", "lr"),
    ) == COLUMNS
    for row in rows:
        numbers = {name: float(value) for name, value in row.items()}
        # Tversky is 4 - 4 Dice, but for the smoothing; both sums have the same cross-entropy.
        cross_entropy = numbers["loss"] - numbers["tversky_loss"]
        assert numbers["dice_crossentropy"] == pytest.approx(1 - numbers["dice_soft"] + cross_entropy, abs=1e-4)
        assert numbers["tversky_loss"] == pytest.approx(4 - 4 * numbers["dice_soft"], abs=1e-3)
        assert numbers["lr"] == 1e-3
    assert len(told) == 3 and told[0].endswith(", after epoch 0") and told[2].startswith("epoch 2, loss ")


@pytest.mark.realdata
def test_history_of_the_paper_has_the_same_columns(data_dir: Path) -> None:
    header = (data_dir / "muller20" / "paper" / "history.fold_0.tsv").read_text(encoding="utf-8").split("\n")[0]
    assert tuple(header.strip().split("\t")) == COLUMNS


def test_run_folder_says_what_was_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(training__epochs=1, training__seed=5)
    _fit(tmp_path, recipe).run()
    assert read_experiment(tmp_path / "recipe.yaml") == recipe
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (run["fold"], run["seed"]) == (1, 5)
    assert run["origin"]["training"] == {"case_0": "key 0", "case_1": "key 1"}
    assert run["origin"]["validation"] == {"case_2": "key 2"} and run["origin"]["device"] == "cpu"
    assert run["versions"]["torch"] == metadata.version("torch") and set(run["git"]) == {"commit", "changed"}
    assert not list(tmp_path.glob("*.part"))


def test_best_and_last_weights_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = _fit(tmp_path, tiny_recipe(training__epochs=3))
    losses = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(fit, "_train", lambda: _after_a_step(fit, next(losses)))
    fit.run_epoch()
    fit.run_epoch()
    second = {name: tensor.clone() for name, tensor in fit.network.state_dict().items()}
    fit.run_epoch()
    best, last, previous = (torch.load(tmp_path / f"{name}.pt") for name in ("best", "last", "previous"))
    assert (best["epoch"], best["loss"], last["epoch"], previous["epoch"]) == (2, 1.0, 3, 2)
    for name, tensor in second.items():
        assert torch.equal(best["network"][name], tensor) and torch.equal(previous["network"][name], tensor)
    assert not torch.equal(last["network"]["head.weight"], second["head.weight"])


def _after_a_step(fit: ExperimentFit, loss: float) -> torch.Tensor:
    with torch.no_grad():
        for parameter in fit.network.parameters():
            parameter += 0.01
    return torch.full((4,), loss)


def test_training_ends_early_and_the_rate_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(training__epochs=50, training__early_stopping_patience=5, training__plateau__patience=2)
    fit = _fit(tmp_path, recipe)
    monkeypatch.setattr(fit, "_train", lambda: torch.full((4,), 1.0))
    fit.run()
    assert fit.finished and fit.epoch == 6
    assert [row["lr"] for row in fit.history] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    again = _fit(tmp_path, recipe)
    assert again.finished
    again.run()
    assert again.epoch == 6


@pytest.mark.parametrize("augmented", [False, True])
def test_validation_is_augmented_only_if_told_to(tmp_path: Path, augmented: bool) -> None:
    recipe = tiny_recipe(training__validation_augmented=augmented)
    training, validation = _fit(tmp_path, recipe)._crops
    assert training.augmentation == recipe.augmentation and training.shuffled
    assert validation.augmentation == (recipe.augmentation if augmented else None) and not validation.shuffled


def test_decay_lowers_the_rate_of_every_batch(tmp_path: Path) -> None:
    fit = _fit(tmp_path, tiny_recipe(optimizer__decay=0.5, training__epochs=2))
    fit.run()
    assert [row["lr"] for row in fit.history] == pytest.approx([1e-3, 5e-4])  # after 0 and 2 batches
    assert fit.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 2.5)  # the fourth batch


def test_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = _fit(tmp_path)
    fit.run(epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".pt"}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit.run(epochs=1)
    monkeypatch.undo()
    monkeypatch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".pt"} == before
    assert not list(tmp_path.glob("*.part"))
    resumed = _fit(tmp_path)
    assert resumed.epoch == 1
    resumed.run()
    assert len(_rows(tmp_path)) == 3


def test_damaged_checkpoint_is_named_and_the_one_before_goes_on(tmp_path: Path) -> None:
    _fit(tmp_path, tiny_recipe(training__epochs=2)).run()
    content = (tmp_path / "last.pt").read_bytes()
    middle = len(content) // 2  # weights, which torch reads whatever they are
    flipped = content[:middle] + bytes(255 - byte for byte in content[middle : middle + 50]) + content[middle + 50 :]
    for damaged in (content[:1000], b"", b"nonsense", flipped):
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"last.pt: damaged; delete it to continue from the epoch before"):
            _fit(tmp_path, tiny_recipe(training__epochs=2))
    (tmp_path / "last.pt").write_bytes((tmp_path / "best.pt").read_bytes())  # weights alone
    with pytest.raises(ModelError, match=r"last.pt: no checkpoint; delete it to continue from the epoch before"):
        _fit(tmp_path, tiny_recipe(training__epochs=2))
    (tmp_path / "last.pt").unlink()
    assert _fit(tmp_path, tiny_recipe(training__epochs=2)).epoch == 1
    for name, only in (("last.pt", "previous.pt"), ("previous.pt", "last.pt")):
        (tmp_path / only).unlink(missing_ok=True)
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ModelError, match=rf"{name}: damaged; delete it to begin again"):
            _fit(tmp_path, tiny_recipe(training__epochs=2))


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    _fit(tmp_path).run(epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        InputError, match=r"begun with another recipe \(experiment.training.seed is \d+ in recipe.yaml there, 5 here\)"
    ):
        _fit(tmp_path, tiny_recipe(training__seed=5))
    with pytest.raises(InputError, match="holds fold 1, not 0"):
        _fit(tmp_path, fold_number=0)
    with pytest.raises(InputError, match="begun with other training cases, or one has changed since"):
        _fit(tmp_path, cases=[replace(CASES[0], key="prepared anew"), *CASES[1:]])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("cases", "fold", "message"),
    [
        (CASES[:1], Fold(("case_0",), ("case_0",)), "at least one to learn from and another to validate on"),
        (CASES, Fold(("case_0", "case_1"), ("case_1",)), "case 'case_1' is in training and in validation"),
        (CASES, Fold(("case_0",), ()), "at least one case for training and one for validation"),
        (CASES, Fold(("case_0", "case_7"), ("case_1",)), "case 'case_7' of the fold .* is not prepared"),
    ],
)
def test_folds_that_cannot_be_trained_are_refused(
    tmp_path: Path, cases: list[PreparedCase], fold: Fold, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _fit(tmp_path / "run", cases=cases, fold=fold)
    assert not (tmp_path / "run").exists()


def test_recipe_for_fewer_classes_than_the_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="case 'case_0' has label 3, the recipe only 3 classes"):
        _fit(tmp_path / "run", tiny_recipe(network__classes=3))


def test_class_that_no_training_case_has_is_refused(tmp_path: Path) -> None:
    cases = [replace(case, labels_kji=np.where(case.labels_kji == 3, 1, case.labels_kji)) for case in CASES[:2]]
    with pytest.raises(InputError, match=r"no training case has a voxel of label 3.*correct network.classes \(4\)"):
        _fit(tmp_path / "run", cases=[*cases, CASES[2]])
    with pytest.raises(InputError, match="no training case has a voxel of label 4"):
        _fit(tmp_path / "run", tiny_recipe(network__classes=6))
    assert not (tmp_path / "run").exists()
    _fit(tmp_path / "run", cases=[CASES[0], cases[1], CASES[2]])  # a single healthy case is none the worse


def test_gpu_that_is_not_there_is_an_error_and_no_cpu(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:99"):
        _fit(tmp_path / "run", device="cuda:99")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device from which nothing can be read: whoever waits for a number from it fails."""
    monkeypatch.setattr(experiment_fit, "resolve_device", lambda device: device)
    monkeypatch.setattr(experiment_fit, "autocast", lambda device, *, precision: nullcontext())


@pytest.mark.usefixtures("meta_device")
@pytest.mark.parametrize("name", SIZE_MULTIPLE)
def test_batch_is_learnt_without_waiting_for_the_device(tmp_path: Path, name: str) -> None:
    network = {"network__name": name, "network__options": {"width": 8}}
    fit = _fit(tmp_path, tiny_recipe(**network), device="meta")
    metrics = fit.train_batch(*_meta_batch())
    assert metrics.device.type == "meta" and metrics.shape == (4,)
    assert {p.grad.device.type for p in fit.network.parameters() if p.grad is not None} == {"meta"}


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
@pytest.mark.usefixtures("meta_device")
def test_resumed_run_does_not_wait_for_the_device_either(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    _fit(tmp_path, recipe).run(epochs=1)
    described = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    described["origin"]["device"] = "meta"
    (tmp_path / "run.json").write_text(json.dumps(described), encoding="utf-8")
    resumed = _fit(tmp_path, recipe, device="meta")
    assert resumed.epoch == 1 and len(resumed.optimizer.state) > 10
    resumed.train_batch(*_meta_batch())
    for state in resumed.optimizer.state.values():
        assert (state["step"].device.type, state["exp_avg"].device.type) == ("cpu", "meta")
        assert state["step"].item() == 3  # two batches, and this one


def _meta_batch() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.zeros(2, 1, 16, 16, 32, device="meta")
    return image, torch.zeros(2, 16, 16, 32, dtype=torch.uint8, device="meta")


def test_gpu_without_room_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = _fit(tmp_path)
    fit.run(epochs=1)

    def full(image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(fit, "train_batch", full)
    with pytest.raises(DeviceError, match=r"out of memory on cpu; the run stands at epoch 1\. .*precision bfloat16"):
        fit.run()
    assert _fit(tmp_path).epoch == 1


def test_loss_that_is_no_number_ends_the_run_at_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = _fit(tmp_path)
    fit.run(epochs=1)
    monkeypatch.setattr(fit, "_train", lambda: torch.full((4,), float("nan")))
    with pytest.raises(InputError, match="loss of epoch 2 is not a number"):
        fit.run()
    assert _fit(tmp_path).epoch == 1 and len(_rows(tmp_path)) == 1


def test_bfloat16_trains(tmp_path: Path) -> None:
    fit = _fit(tmp_path, tiny_recipe(training__precision="bfloat16", training__epochs=1))
    fit.run()
    assert all(parameter.dtype == torch.float32 for parameter in fit.network.parameters())
    assert 0 < fit.history[0]["loss"] < 10


def test_bfloat16_gradient_that_is_no_number_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = _fit(tmp_path, tiny_recipe(training__precision="bfloat16"))
    before = [parameter.detach().clone() for parameter in fit.network.parameters()]
    batch_loss = experiment_fit.batch_loss

    def broken(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> Any:
        found = batch_loss(logits, labels, **options)
        return replace(found, loss=found.loss * float("nan"))

    monkeypatch.setattr(experiment_fit, "batch_loss", broken)
    fit.train_batch(torch.zeros(1, 1, 16, 16, 32), torch.zeros(1, 16, 16, 32, dtype=torch.uint8))
    for old, parameter in zip(before, fit.network.parameters(), strict=True):
        assert torch.equal(old, parameter)


def test_tensorboard_gets_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    _fit(tmp_path, tiny_recipe(training__epochs=1)).run()
    files = list((tmp_path / "tensorboard").iterdir())
    assert len(files) == 1 and b"val_dice_soft" in files[0].read_bytes()


def test_without_tensorboard_nothing_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    _fit(tmp_path, tiny_recipe(training__epochs=1)).run()
    assert len(_rows(tmp_path)) == 1 and not (tmp_path / "tensorboard").exists()


def test_batch_must_be_shared_evenly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a batch of 2 cannot be shared evenly by 3 processes"):
        _fit(tmp_path / "run", world=World(0, 3))


@pytest.mark.gpu
def test_gpu_trains_and_resumes(tmp_path: Path) -> None:
    recipe = tiny_recipe(training__precision="bfloat16", training__batches_per_epoch=8)
    _fit(tmp_path, recipe, device="cuda").run(epochs=1)
    resumed = _fit(tmp_path, recipe, device="cuda")
    resumed.run()
    assert resumed.finished and resumed.history[-1]["loss"] < resumed.history[0]["loss"]
