from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from CovidSegLib.errors import DeviceError, InputError
from helpers_experiment import tiny_recipe, write_cases

from CovidSegTraining.experiment import run_folder
from CovidSegTraining.experiment.cluster import choose_cluster, in_sequence, on_cluster
from CovidSegTraining.experiment.cv import FoldJob, Places, Tell, run_fold
from CovidSegTraining.experiment.fit import ExperimentFit
from CovidSegTraining.experiment.variants import Variant
from CovidSegTraining.splits import Fold

ray = pytest.importorskip("ray")

FOLDS = (Fold(("case_0", "case_1"), ("case_2",)), Fold(("case_1", "case_2"), ("case_0",)))


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    """A cluster of two workers on this machine."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("data"))


def _jobs(data: Path, output: Path, *, epochs: int = 3, device: str = "cpu") -> list[FoldJob]:
    """Return a job for each fold, its cases prepared."""
    from CovidSegTraining.experiment.cache import prepare_cases

    recipe = tiny_recipe(training__epochs=epochs)
    places = Places(data, output, output / "cache")
    settings, classes = recipe.preprocessing, recipe.network.classes
    prepare_cases(data, cache_dir=places.cache_of(recipe), settings=settings, classes=classes, tell=lambda line: None)
    return [FoldJob(Variant("", recipe, FOLDS), number, places, device) for number in range(2)]


def _results(output: Path) -> dict[str, bytes]:
    files = [*output.glob("fold_*/history*"), *output.glob("predictions/*")]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


def _undisturbed(data: Path, output: Path, *, epochs: int = 3) -> dict[str, bytes]:
    outcomes = list(in_sequence(_jobs(data, output, epochs=epochs), tell=lambda line: None))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert len(_results(output)) == 4
    return _results(output)


def _killed_once(job: FoldJob, tell: Tell) -> None:
    """Do a fold; in the middle of the second epoch of fold 1, the first time, the worker is killed."""
    step, marker = ExperimentFit.train_batch, job.places.output / "killed"

    def kills(self: ExperimentFit, *batch: Any) -> Any:
        metrics = step(self, *batch)
        if job.number == 1 and self.epoch == 1 and not marker.exists():
            marker.write_text(str(os.getpid()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return metrics

    ExperimentFit.train_batch = kills  # type: ignore[method-assign]
    run_folder._summary_writer = lambda folder, *, first_epoch: False  # TensorBoard's import takes seconds
    tell(f"process {os.getpid()}")
    run_fold(job, tell)


@pytest.mark.usefixtures("_cluster")
def test_fold_whose_worker_is_killed_ends_as_if_undisturbed(data: Path, tmp_path: Path) -> None:
    expected = _undisturbed(data, tmp_path / "sequence")
    lines: list[str] = []
    jobs = _jobs(data, tmp_path / "cluster")
    outcomes = list(on_cluster(jobs, address="auto", threads=None, tell=lines.append, work=_killed_once))
    assert sorted(outcome.number for outcome in outcomes) == [0, 1]
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert _results(tmp_path / "cluster") == expected
    killed = (tmp_path / "cluster" / "killed").read_text(encoding="utf-8")
    workers = {line for line in lines if line.startswith("process ")}
    assert f"process {killed}" in workers and len(workers) == 3 and f"process {os.getpid()}" not in workers
    assert lines[0] == "Ray: 2 folds, each with 1 CPU(s)"
    # The second worker went on after the first one's last checkpoint.
    starts = [line.rpartition(", ")[2] for line in lines if line.startswith("fold 1: on ")]
    assert starts == ["after epoch 0", "after epoch 1"]


def _fails(job: FoldJob, tell: Tell) -> None:
    if job.number == 0:
        raise InputError(f"{job.name}: no such case")
    tell(f"{job.name}: done")


@pytest.mark.usefixtures("_cluster")
def test_error_in_a_worker_is_that_error_here_and_is_not_tried_again(tmp_path: Path) -> None:
    lines: list[str] = []
    jobs = [FoldJob(Variant("", tiny_recipe(), FOLDS), n, Places(tmp_path, tmp_path, tmp_path), "auto") for n in (0, 1)]
    outcomes = {o.number: o.error for o in on_cluster(jobs, address="auto", threads=1, tell=lines.append, work=_fails)}
    assert isinstance(outcomes[0], InputError) and str(outcomes[0]) == "fold 0: no such case"
    assert outcomes[1] is None and "fold 1: done" in lines


@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize(("device", "message"), [("cuda", "has no GPU"), ("cuda:1", "Ray deals the GPUs")])
def test_gpu_that_the_cluster_lacks_is_an_error_and_no_wait(tmp_path: Path, device: str, message: str) -> None:
    jobs = [FoldJob(Variant("", tiny_recipe(), FOLDS), 0, Places(tmp_path, tmp_path, tmp_path), device)]
    with pytest.raises(DeviceError, match=message):
        list(on_cluster(jobs, address="auto", threads=None, tell=print, work=_fails))


def test_in_sequence_errors_are_outcomes_too(tmp_path: Path) -> None:
    jobs = [FoldJob(Variant("", tiny_recipe(), FOLDS), n, Places(tmp_path, tmp_path, tmp_path), "cpu") for n in (0, 1)]
    outcomes = list(in_sequence(jobs, tell=lambda line: None, work=_fails))
    assert [outcome.number for outcome in outcomes] == [0, 1]
    assert isinstance(outcomes[0].error, InputError) and outcomes[1].error is None


def test_fold_that_fails_leaves_the_gpu_to_the_others(data: Path, tmp_path: Path) -> None:
    networks: list[weakref.ref[torch.nn.Module]] = []

    def fails(self: ExperimentFit, *batch: Any) -> Any:
        networks.append(weakref.ref(self.network))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExperimentFit, "train_batch", fails)
        outcomes = list(in_sequence(_jobs(data, tmp_path), tell=lambda line: None))
    assert len(networks) == 2 and [network() for network in networks] == [None, None]
    for outcome in outcomes:
        assert isinstance(outcome.error, DeviceError)
        assert "train_batch" in "".join(traceback.format_exception(outcome.error))  # --verbose still shows where


def _needs_its_gpu(job: FoldJob, tell: Tell) -> None:
    """Say which GPU a fold was given; the first time, that of fold 1 fails."""
    marker = job.places.output / "failed"
    tell(f"{job.name}: GPU {os.environ['CUDA_VISIBLE_DEVICES']}, process {os.getpid()}")
    if job.number == 1 and not marker.exists():
        marker.touch()
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.slow
def test_each_fold_has_one_gpu_and_a_new_process_after_an_error_of_it(tmp_path: Path) -> None:
    ray.shutdown()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    jobs = [FoldJob(Variant("", tiny_recipe(), FOLDS), n, Places(tmp_path, tmp_path, tmp_path), "cuda") for n in (0, 1)]
    lines: list[str] = []
    # Ray deals GPUs that it is told of, whether they are there or not.
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
    try:
        outcomes = list(on_cluster(jobs, address="auto", threads=None, tell=lines.append, work=_needs_its_gpu))
    finally:
        ray.shutdown()
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert lines[0] == "Ray: 2 folds, each with a GPU"
    given = [line.split()[-3:] for line in lines if "GPU " in line and line.startswith("fold")]
    assert len(given) == 3 and {gpu for gpu, *_ in given} <= {"0,", "1,"}
    assert len({process for *_, process in given}) == 3


@pytest.mark.slow
def test_worker_killed_from_outside_in_mid_fold_ends_as_if_undisturbed(data: Path, tmp_path: Path) -> None:
    """A cluster that the command starts itself; a worker is found by its name and killed while others train."""
    import psutil

    ray.shutdown()
    epochs = 60
    expected = _undisturbed(data, tmp_path / "sequence", epochs=epochs)
    killed: list[int] = []

    def tell(line: str) -> None:
        lines.append(line)
        if line.startswith("fold 0: epoch 2") and not killed:
            workers = [p for p in psutil.Process().children(recursive=True) if "ray::fold 0" in " ".join(p.cmdline())]
            for worker in workers:
                worker.kill()
                killed.append(worker.pid)

    lines: list[str] = []
    run: Callable[[Any], Iterator[Any]] = choose_cluster("auto", threads=1, tell=tell)
    outcomes = list(run(_jobs(data, tmp_path / "cluster", epochs=epochs)))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert killed and _results(tmp_path / "cluster") == expected
    starts = [line.rpartition(" ")[2] for line in lines if line.startswith("fold 0: on ")]
    assert len(starts) == 2 and 2 <= int(starts[1]) < epochs
    deadline = time.monotonic() + 30
    while ray.is_initialized() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ray.is_initialized()


def test_address_at_which_nobody_answers_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address: pytest.fail("Ray would wait for minutes"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DeviceError, match=rf"no Ray cluster answers at '127\.0\.0\.1:{port}'.*ray start --head"):
        list(on_cluster([], address=f"127.0.0.1:{port}", threads=None, tell=print))
