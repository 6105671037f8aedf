"""Patches: known answer after blending, counts, progress, cancel, and the device ladder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from CovidSegLib import inference, patch_predictor
from CovidSegLib.errors import Cancelled, DeviceError
from CovidSegLib.inference import ACCURATE, FAST, Prediction, Rung, Tiling, ladder, patch_count, predict
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.progress import Progress, Reporter
from helpers_model import Pointwise

SMALL = Tiling(patch_kji=(16, 16, 16), overlap=0.5)
SMALLER = Tiling(patch_kji=(16, 16, 16), overlap=0.25)


@pytest.fixture
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both modes use small patches."""
    monkeypatch.setattr(inference, "TILINGS", {"accurate": SMALL, "fast": SMALLER})


def image_of(shape: tuple[int, int, int], *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def run(image_kji: np.ndarray, network: torch.nn.Module, **options: Any) -> Prediction:
    arguments: dict[str, Any] = {"mode": "accurate", "device": "cpu", "reporter": Reporter()}
    return predict(image_kji, network=network, **(arguments | options))


def expected_of(image_kji: np.ndarray, network: Pointwise) -> np.ndarray:
    slopes = np.asarray(network.slopes).reshape(4, 1, 1, 1)
    powers = np.exp(slopes * image_kji)
    return powers / powers.sum(axis=0)


@pytest.mark.usefixtures("small_patches")
@pytest.mark.parametrize("mode", ["accurate", "fast"])
@pytest.mark.parametrize(
    "shape", [(16, 16, 16), (17, 40, 33), (48, 24, 30), (5, 50, 20), (1, 1, 1), (3, 9, 15)], ids=str
)
def test_blended_patches_equal_the_direct_answer(shape: tuple[int, int, int], mode: str) -> None:
    image, network = image_of(shape), Pointwise()
    before = image.copy()
    found = run(image, network, mode=mode)
    assert found.probabilities.shape == (4, *shape) and found.probabilities.dtype == np.float32
    assert found.probabilities == pytest.approx(expected_of(image, network), abs=1e-5)
    assert (found.device, found.messages) == ("cpu", ())
    assert np.array_equal(image, before)


def test_papers_volume_takes_the_papers_18_patches() -> None:
    assert patch_count((104, 254, 267), tiling=ACCURATE) == 18
    assert ACCURATE.patch_kji == (80, 160, 160) and ACCURATE.overlap == 0.5


def test_fast_takes_a_whole_chest_in_few_patches() -> None:
    assert patch_count((120, 170, 220), tiling=FAST.fitted_to((120, 170, 220))) == 1
    assert patch_count((130, 190, 240), tiling=FAST) <= 8


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 40, 33), (48, 24, 30)], ids=str)
@pytest.mark.parametrize("tiling", [SMALL, SMALLER], ids=["half", "quarter"])
def test_number_of_patches_is_known_beforehand(shape: tuple[int, int, int], tiling: Tiling) -> None:
    network, rung = Pointwise(), Rung("cpu", "cpu", tiling)
    inference._predict_on(rung, image_of(shape), network=network, reporter=Reporter(), integers=None)
    assert len(network.shapes) == patch_count(shape, tiling=tiling)
    assert set(network.shapes) == {(16, 16, 16)}


def test_patches_are_no_larger_than_the_image_rounded_up_to_16() -> None:
    assert ACCURATE.fitted_to((104, 254, 267)) == ACCURATE
    assert ACCURATE.fitted_to((33, 160, 7)) == Tiling((48, 160, 16), 0.5)
    network = Pointwise()
    run(image_of((20, 30, 17)), network)
    assert network.shapes == [(32, 32, 32)]


@pytest.mark.usefixtures("small_patches")
def test_progress_is_told_per_patch_and_only_grows() -> None:
    seen: list[Progress] = []
    image = image_of((16, 32, 40))
    run(image, Pointwise(), reporter=Reporter(progress=seen.append))
    total = patch_count(image.shape, tiling=SMALL)
    assert [step.done for step in seen] == list(range(total + 1))
    assert {(step.stage, step.total, step.message) for step in seen} == {("network", total, "")}


@pytest.mark.usefixtures("small_patches")
@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancel_takes_effect_before_the_next_patch(after: int) -> None:
    network = Pointwise()
    reporter = Reporter(cancelled=lambda: len(network.shapes) >= after)
    with pytest.raises(Cancelled):
        run(image_of((32, 32, 32)), network, reporter=reporter)
    assert len(network.shapes) == after


@pytest.mark.usefixtures("small_patches")
def test_two_runs_on_the_cpu_are_bitwise_equal() -> None:
    torch.manual_seed(0)
    network, image = build_network(NetworkConfig(width=2)), image_of((20, 40, 24))
    assert np.array_equal(run(image, network).probabilities, run(image, network).probabilities)


def test_network_runs_in_evaluation_mode_without_gradients() -> None:
    class Probe(Pointwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training and not torch.is_grad_enabled()
            return super().forward(x)

    run(image_of((16, 16, 16)), Probe().train())


class Failing(Pointwise):
    """Raises for patches with more voxels than fit."""

    def __init__(self, *, fits: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.fits, self.error = fits, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > self.fits:
            self.shapes.append(tuple(x.shape[2:]))
            raise self.error()
        return super().forward(x)


OUT_OF_MEMORY: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError,
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    lambda: RuntimeError("could not create a primitive"),  # oneDNN, where it cannot get room for its own buffers
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_smaller_patches_follow_if_memory_runs_out(error: Callable[[], Exception]) -> None:
    image = image_of((50, 20, 20))
    network = Failing(fits=48 * 32 * 32, error=error)
    seen: list[Progress] = []
    found = run(image, network, reporter=Reporter(progress=seen.append))
    assert found.probabilities == pytest.approx(expected_of(image, network), abs=1e-5)
    assert network.shapes[0] == (64, 32, 32) and set(network.shapes[1:]) == {(48, 32, 32)}
    assert found.messages == ("out of memory on cpu: continuing on cpu, in small patches",)
    assert [step.message for step in seen if step.message] == list(found.messages)


def test_memory_that_never_suffices_is_a_device_error_that_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"out of memory on cpu.*close other programs, or crop the CT"):
        run(image_of((20, 20, 20)), Failing(fits=0, error=MemoryError))


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), NotImplementedError("conv"), ValueError("x")])
def test_error_of_another_kind_is_not_swallowed(error: Exception) -> None:
    network = Failing(fits=0, error=lambda: error)
    with pytest.raises(type(error)) as caught:
        run(image_of((20, 20, 20)), network)
    assert caught.value is error
    assert len(network.shapes) == 1


def test_ladder_goes_from_the_gpu_to_small_patches_on_the_cpu() -> None:
    rungs = ladder("cuda:1", tiling=FAST)
    assert [(r.device, r.sum_on) for r in rungs] == [
        ("cuda:1", "cuda:1"),
        ("cuda:1", "cpu"),
        ("cpu", "cpu"),
        ("cpu", "cpu"),
    ]
    assert [rung.text for rung in rungs[:3]] == ["cuda:1", "cuda:1, summed up on the cpu", "cpu"]
    volumes = [np.prod(r.tiling.patch_kji) for r in rungs]
    assert volumes[0] > volumes[1] and volumes[2] > volumes[3]
    assert ladder("cpu", tiling=FAST) == rungs[2:]


def test_every_step_down_is_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Rung] = []

    def fake(rung: Rung, image_kji: np.ndarray, *, network: Any, **_: Any) -> tuple[np.ndarray, str]:
        tried.append(rung)
        if len(tried) == 1:
            raise NotImplementedError("The operator 'aten::max_pool3d' is not implemented for the MPS device")
        if len(tried) < 4:
            raise torch.OutOfMemoryError("MPS backend out of memory")
        return np.zeros((4, *image_kji.shape), np.float32), "float32"

    monkeypatch.setattr(inference, "_predict_on", fake)
    found = run(image_of((4, 4, 4)), Pointwise(), device="mps")
    assert [rung.text for rung in tried] == ["mps", "mps, summed up on the cpu", "cpu", "cpu, in small patches"]
    assert found.device == "cpu"
    assert found.messages == (
        "mps lacks an operation the network needs: continuing on mps, summed up on the cpu",
        "out of memory on mps, summed up on the cpu: continuing on cpu",
        "out of memory on cpu: continuing on cpu, in small patches",
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_gpu_that_cannot_run_the_network_is_left_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    tried: list[str] = []

    def fake(rung: Rung, image_kji: np.ndarray, *, network: Any, **_: Any) -> tuple[np.ndarray, str]:
        tried.append(rung.device)
        if rung.device == "cuda":
            raise error
        return np.zeros((4, *image_kji.shape), np.float32), "float32"

    monkeypatch.setattr(inference, "_predict_on", fake)
    found = run(image_of((4, 4, 4)), Pointwise(), device="cuda")
    assert tried == ["cuda", "cuda", "cpu"] and found.device == "cpu"
    assert found.messages[-1] == "cuda lacks an operation the network needs: continuing on cpu"


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_apple_gpu_that_computes_something_else_is_left_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    def of_noise(network: torch.nn.Module, *, device: str) -> np.ndarray:
        return np.full((1, 4, 32, 32, 32), 0.25 if device == "cpu" else wrong, np.float32)

    monkeypatch.setattr(patch_predictor, "_probabilities_of_noise", of_noise)
    image, network = image_of((20, 20, 20)), Pointwise()
    found = run(image, network, device="mps")
    assert found.device == "cpu"
    assert found.probabilities == pytest.approx(expected_of(image, network), abs=1e-5)
    assert found.messages == (
        "mps computes something else than the CPU: continuing on mps, summed up on the cpu",
        "mps computes something else than the CPU: continuing on cpu",
    )


def test_apple_gpu_gives_its_memory_back_at_each_step_down_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def full_at_first(rung: Rung, image_kji: np.ndarray, *, network: Any, **_: Any) -> tuple[np.ndarray, str]:
        tried.append(rung.device)
        if rung.device == "mps":
            raise RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)")
        return np.zeros((4, *image_kji.shape), np.float32), "float32"

    monkeypatch.setattr(inference, "_predict_on", full_at_first)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: tried.append("emptied"))
    assert run(image_of((4, 4, 4)), Pointwise(), device="mps").device == "cpu"
    assert tried == ["mps", "emptied", "mps", "emptied", "cpu", "emptied"]
    tried.clear()
    monkeypatch.setattr(inference, "_predict_on", lambda *_, **__: (np.zeros((4, 4, 4, 4), np.float32), "float32"))
    run(image_of((4, 4, 4)), Pointwise(), device="cpu")
    assert tried == []


def test_device_that_computes_what_the_cpu_does_passes() -> None:
    torch.manual_seed(0)
    patch_predictor.check_results(build_network(NetworkConfig(width=2)), device="cpu")


def test_apple_gpu_gets_weights_and_patches_in_plain_order(monkeypatch: pytest.MonkeyPatch) -> None:
    network, formats = Pointwise(), []
    monkeypatch.setattr(network, "to", lambda _device, *, memory_format: formats.append(memory_format) or network)
    network.register_forward_pre_hook(lambda _network, taken: formats.append(taken[0].is_contiguous()))
    for device in ("cpu", "mps"):
        predictor = patch_predictor.PatchPredictor(network, device=device)
        predictor(torch.zeros((1, 1, 16, 16, 32))[..., 8:24])  # as the sliding window cuts it
    assert formats == [torch.channels_last_3d, True, torch.contiguous_format, True]


@pytest.mark.parametrize("outcome", [None, Cancelled(), RuntimeError("other")])
def test_network_is_back_on_the_cpu_however_a_run_ends(
    monkeypatch: pytest.MonkeyPatch, outcome: Exception | None
) -> None:
    network = Pointwise()

    def fake(rung: Rung, image_kji: np.ndarray, *, network: Any, **_: Any) -> tuple[np.ndarray, str]:
        network.to("meta")
        if outcome is not None:
            raise outcome
        return np.zeros((4, *image_kji.shape), np.float32), "float32"

    moved: list[str] = []
    monkeypatch.setattr(inference, "_predict_on", fake)
    monkeypatch.setattr(network, "to", lambda device, **_: moved.append(str(device)))
    if outcome is None:
        run(image_of((4, 4, 4)), network, device="mps")
    else:
        with pytest.raises(type(outcome)):
            run(image_of((4, 4, 4)), network, device="mps")
    assert moved == ["meta", "cpu"]


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu_and_gives_its_memory_back() -> None:
    torch.manual_seed(0)
    network, image = build_network(NetworkConfig(width=4)), image_of((40, 80, 64))
    on_cpu = run(image, network).probabilities
    found = run(image, network, device="cuda")
    assert found.device == "cuda"
    assert found.probabilities == pytest.approx(on_cpu, abs=0.02)
    assert next(network.parameters()).device.type == "cpu"
    assert torch.cuda.memory_allocated() == 0
