"""Do the folds of an experiment one after the other, or as tasks on a Ray cluster.

On a cluster each fold has a GPU to itself or, without GPUs, its share of the CPUs. All machines must see the data and
output folders under the same paths, and have the same version of CovidSeg installed. A fold whose worker is lost
(killed, out of memory, machine gone, GPU error) continues on another worker from its last checkpoint.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from CovidSegLib.errors import DeviceError

from .cv import FoldJob, Outcome, RunJobs, Tell, run_fold

#: Values of --cluster other than an address: "auto" finds a cluster on this machine or starts one, "none" uses none.
AUTO, NONE = "auto", "none"
#: How often a fold is begun again after it lost its worker.
RETRIES = 3
#: How long to wait for an answer at a cluster's address.
ANSWER_S = 10.0
#: How often the workers' lines are fetched.
POLL_S = 0.5
#: Nothing large is passed around; this is near the least that Ray allows.
_OBJECT_STORE_BYTES = 100 * 2**20

Work = Callable[[FoldJob, Tell], None]


def choose_cluster(cluster: str, *, threads: int | None, tell: Tell) -> RunJobs:
    """Return the function that does all jobs of an experiment.

    Args:
        cluster: "none"; "auto" for a cluster that runs on this machine, else one started for this run (none if Ray is
            not installed); or a cluster's address.
        threads: CPU threads of each fold on a cluster without GPUs; None: an even share.
        tell: Called with one line at a time.

    Raises:
        DeviceError: An address was given, but Ray is not installed.
    """
    if cluster == NONE:
        return lambda jobs: in_sequence(jobs, tell=tell)
    if find_spec("ray") is None:
        if cluster != AUTO:
            raise DeviceError("--cluster needs Ray: pip install 'covidseg[cluster]', or leave the option out")
        tell("Ray is not installed (pip install 'covidseg[cluster]'): the folds are done one after the other")
        return lambda jobs: in_sequence(jobs, tell=tell)
    return lambda jobs: on_cluster(jobs, address=cluster, threads=threads, tell=tell)


def in_sequence(jobs: Sequence[FoldJob], *, tell: Tell, work: Work = run_fold) -> Iterator[Outcome]:
    """Do the jobs one after the other in this process."""
    for number, job in enumerate(jobs):
        try:
            work(job, tell)
        except Exception as error:
            _clear_frames(error)
            yield Outcome(number, error)
        else:
            yield Outcome(number, None)


def _clear_frames(error: BaseException | None) -> None:
    """Clear the variables in an error's traceback, which would keep the fold's volumes and network on the GPU."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def on_cluster(
    jobs: Sequence[FoldJob], *, address: str, threads: int | None, tell: Tell, work: Work = run_fold
) -> Iterator[Outcome]:
    """Do the jobs as Ray tasks, as many at once as the cluster has room for.

    Args:
        jobs: Jobs for one and the same device; each must be able to continue where it was interrupted.
        address: "auto", or the address of a cluster; see `choose_cluster`.
        threads: CPU threads of each job; None: an even share.
        tell: Called with the workers' lines.
        work: Does one job.

    Raises:
        DeviceError: No cluster answers at the address, or it lacks the device asked for.
    """
    import ray
    import torch
    from ray.util.queue import Queue

    with _connected(address):
        needs = _needs(jobs, threads=threads)
        each = "a GPU" if "num_gpus" in needs else f"{needs['num_cpus']} CPU(s)"
        tell(f"Ray: {len(jobs)} folds, each with {each}")
        lines = Queue(actor_options={"num_cpus": 0})
        # After a GPU error, a process cannot use its GPU any more; therefore every fold gets a process of its own.
        remote: Any = ray.remote
        task = remote(max_calls=1, max_retries=RETRIES, retry_exceptions=[torch.AcceleratorError], **needs)(_do)
        pending = {task.options(name=job.name).remote(work, job, lines): n for n, job in enumerate(jobs)}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
            for line in lines.get_nowait_batch(lines.qsize()):
                tell(line)
            for reference in done:
                number = pending.pop(reference)
                yield Outcome(number, _error_of(reference, job=jobs[number]))


def _do(work: Work, job: FoldJob, lines: Any) -> None:
    """Do a job in a worker."""
    work(job, lines.put)


def _error_of(reference: Any, *, job: FoldJob) -> Exception | None:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return DeviceError(
            f"{job.name}: its worker was lost {RETRIES + 1} times ({reason}). Look at the workers' memory and logs; "
            "run the same command again to go on"
        )
    return None


def _needs(jobs: Sequence[FoldJob], *, threads: int | None) -> dict[str, int]:
    """Return the resources that Ray is to reserve for each job.

    Raises:
        DeviceError: The cluster lacks the device; Ray would wait for one for ever.
    """
    import ray

    device = jobs[0].device if jobs else "cpu"
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    if device == "cuda" and not gpus:
        raise DeviceError("device 'cuda' was asked for, but the Ray cluster has no GPU: use --device auto or cpu")
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"device '{device}' cannot be chosen on a cluster, Ray deals the GPUs: use auto, cpu or cuda")
    if gpus and device != "cpu":
        return {"num_gpus": 1, "num_cpus": 1}
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return {"num_cpus": min(threads or max(1, cpus // max(len(jobs), 1)), largest)}


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster for the time of the context; a connection that exists already is used and kept."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        _check_answers(address)
        ray.init(address=address)
    except ConnectionError as error:
        if address != AUTO:
            raise DeviceError(
                f"no Ray cluster answers at '{address}' ({error}). "
                "Start one with 'ray start --head', or use --cluster auto"
            ) from error
        ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Make sure that something listens at host:port; Ray itself would wait silently for many minutes.

    Raises:
        ConnectionError: Nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise ConnectionError(str(error)) from error
