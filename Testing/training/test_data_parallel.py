"""Two processes that share each batch. Run by torchrun, this file is one of them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from CovidSegLib.errors import InputError
from helpers_experiment import tiny_values, write_cases

from CovidSegTraining.cli import main
from CovidSegTraining.experiment import run_folder
from CovidSegTraining.experiment.fit import ExperimentFit
from CovidSegTraining.experiment.world import PATIENCE, World, joined_world
from CovidSegTraining.splits import Fold, write_folds

ROOT = Path(__file__).resolve().parents[2]
FOLD = Fold(("case_0", "case_1"), ("case_2",))


def _fit(folder: Path, output: Path, *, kept: Path) -> None:
    """Run `fit`; keep gradients and batch-norm statistics of its first batch."""
    step = ExperimentFit.train_batch

    def keeps(self: ExperimentFit, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert len(image) == self.recipe.patches.batch // self.world.size
        metrics = step(self, image, labels)
        if not kept.exists():
            gradients = {name: parameter.grad for name, parameter in self.network.named_parameters()}
            buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
            torch.save({"gradients": gradients, "buffers": buffers}, kept)
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExperimentFit, "train_batch", keeps)
        # TensorBoard's import takes seconds.
        patch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)
        assert main([*_fit_arguments(folder), "-o", str(output)]) == 0


def _fit_arguments(folder: Path) -> list[str]:
    options = {"--config": "recipe.yaml", "--folds": "folds.json", "--cache": "cache", "--data": "data"}
    paths = [text for option, name in options.items() for text in (option, str(folder / name))]
    return ["fit", *paths, "--fold", "0", "--device", "cpu"]


def _torchrun(*arguments: object) -> str:
    """Run two processes to their end; return what they printed."""
    done = _run_two(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _run_two(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "CovidSeg", Path(__file__).parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and folds, and what two processes made of them."""
    if os.name == "nt":
        pytest.skip("torchrun asks for libuv, which torch for Windows is built without")
    root = tmp_path_factory.mktemp("two")
    write_cases(root / "data")
    (root / "recipe.yaml").write_text(yaml.safe_dump(tiny_values(training__epochs=2)), encoding="utf-8")
    write_folds(root / "folds.json", [FOLD])
    (root / "cache").mkdir()
    (root / "printed.txt").write_text(_torchrun(__file__, root), encoding="utf-8")
    _fit(root, root / "alone", kept=root / "alone.pt")
    return root


def test_two_processes_have_the_gradients_of_one(folder: Path) -> None:
    one = torch.load(folder / "alone.pt")
    assert any(gradient.abs().max() > 1e-3 for gradient in one["gradients"].values())
    for rank in range(2):
        shared = torch.load(folder / f"rank_{rank}.pt")
        for kind in ("gradients", "buffers"):
            assert shared[kind].keys() == one[kind].keys()
            for name, expected in one[kind].items():
                # Sums in another order, through twenty layers.
                difference = (shared[kind][name] - expected).abs().max()
                assert difference <= 3e-3 * expected.abs().max(), f"{kind} {name}"


def test_two_processes_write_one_run_like_that_of_one(folder: Path) -> None:
    runs = [folder / "shared", folder / "alone"]
    assert [json.loads((run / "run.json").read_text("utf-8"))["origin"]["processes"] for run in runs] == [2, 1]
    shared, alone = (_rows(run) for run in runs)
    assert len(shared) == len(alone) == 2
    for row, expected in zip(shared, alone, strict=True):
        for name, value in expected.items():
            # Adam's first steps are signs of gradients: a rounding error of a small one becomes a whole step.
            assert float(row[name]) == pytest.approx(float(value), rel=0.01), name
    assert torch.load(runs[0] / "last.pt")["network"].keys() == torch.load(runs[1] / "last.pt")["network"].keys()


def test_only_the_first_process_speaks(folder: Path) -> None:
    lines = (folder / "printed.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("fold 0: epoch 1, loss ")]) == 1
    assert len([line for line in lines if line.startswith("case_0: ")]) == 1
    assert any("and 1 other(s), after epoch 0" in line for line in lines)


def test_process_by_itself_is_the_whole_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_world("auto") as (world, device):
        assert (world, device) == (World(0, 1), "auto")
        assert not torch.distributed.is_initialized()


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of torch.distributed and torch.cuda by the second of two processes on a machine of two GPUs."""
    asked: list[Any] = []
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    group = torch.distributed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(device))
    monkeypatch.setattr(group, "init_process_group", lambda backend, *, timeout: asked.append((backend, timeout)))
    monkeypatch.setattr(group, "get_rank", lambda: 1)
    monkeypatch.setattr(group, "destroy_process_group", lambda: asked.append("left"))
    return asked


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_takes_the_gpu_of_its_number_before_it_joins(joined: list[Any], device: str) -> None:
    with joined_world(device) as world_and_device:
        assert world_and_device == (World(1, 2), "cuda:1")
        assert joined == ["cuda:1", ("nccl", PATIENCE)]
    assert joined[2:] == ["left"]


def test_processes_without_gpus_share_the_cpu(joined: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with joined_world("auto") as (_, device):
        assert device == "cpu" and joined == [("gloo", PATIENCE)]


def test_process_that_fails_does_not_wait_for_the_others(joined: list[Any]) -> None:
    with pytest.raises(InputError, match="another run"), joined_world("cuda"):
        raise InputError("another run")
    assert "left" not in joined


@pytest.mark.slow
def test_error_of_one_process_is_said_and_ends_the_others(folder: Path) -> None:
    done = _run_two(__file__, folder, "fails")
    assert done.returncode != 0 and "the second process fails" in done.stderr


@pytest.mark.slow
def test_command_itself_runs_under_torchrun(folder: Path, tmp_path: Path) -> None:
    arguments = ["-m", "CovidSegTraining.cli", *_fit_arguments(folder), "-o", tmp_path / "run"]
    assert "2 epochs, lowest loss" in _torchrun(*arguments)
    assert _rows(tmp_path / "run") == _rows(folder / "shared")
    assert "after epoch 2" in _torchrun(*arguments)  # nothing is left to do


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "history.fold_0.tsv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _fail_in_the_second_process() -> None:
    with joined_world("cpu") as (world, _):
        if world.rank == 1:
            raise InputError("the second process fails")
        torch.distributed.barrier()


if __name__ == "__main__" and "fails" in sys.argv:
    _fail_in_the_second_process()
elif __name__ == "__main__":
    _fit(Path(sys.argv[1]), Path(sys.argv[1]) / "shared", kept=Path(sys.argv[1]) / f"rank_{os.environ['RANK']}.pt")
