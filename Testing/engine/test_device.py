"""Devices by name: what is absent is refused by name, auto says what it took."""

from __future__ import annotations

import pytest
import torch
from CovidSegLib.device import describe_device, gains_from_bfloat16, gains_from_int8, resolve_device
from CovidSegLib.errors import DeviceError


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a function that pretends to some hardware."""

    def pretend(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (1, True, "cuda")]
)
def test_auto_takes_cuda_then_mps_then_cpu(hardware, cuda, mps, expected) -> None:  # type: ignore[no-untyped-def]
    hardware(cuda=cuda, mps=mps)
    assert resolve_device() == resolve_device("auto") == expected


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", "cpu"])
def test_device_that_is_there_is_taken(hardware, device) -> None:  # type: ignore[no-untyped-def]
    hardware(cuda=2)
    assert resolve_device(device) == device


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "'cuda' was asked for, but torch finds 0"),
        ("cuda:2", "'cuda:2' was asked for, but torch finds 0"),
        ("mps", "no Apple GPU"),
        ("gpu", "unknown device 'gpu': use auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", "unknown device"),
        ("cpu:0", "unknown device"),
        ("auto:1", "unknown device"),
        ("", "unknown device"),
    ],
)
def test_absent_or_unknown_device_is_refused_by_name(hardware, device, message) -> None:  # type: ignore[no-untyped-def]
    hardware()
    with pytest.raises(DeviceError, match=message):
        resolve_device(device)


def test_index_beyond_the_last_gpu_is_refused(hardware) -> None:  # type: ignore[no-untyped-def]
    hardware(cuda=2)
    with pytest.raises(DeviceError, match="'cuda:2' was asked for, but torch finds 2"):
        resolve_device("cuda:2")


def test_cpu_is_described_with_its_threads() -> None:
    assert describe_device("cpu").startswith("CPU (") and f"{torch.get_num_threads()} threads" in describe_device("cpu")


def test_mps_is_marked_untested() -> None:
    assert "untested" in describe_device("mps")


def test_torch_without_onednn_as_on_apple_processors_gains_nothing_from_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # what is not built in is not there to be asked
    assert not gains_from_bfloat16("cpu")


@pytest.mark.parametrize(
    ("capabilities", "vnni", "gains"),
    [
        ({"avx512_vnni": True, "avx_vnni": False}, False, True),
        ({"avx512_vnni": False, "avx_vnni": True}, False, True),
        ({"avx512_vnni": False, "avx2": True}, False, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_processors_that_multiply_bytes_fast_gain_from_int8(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool] | None, vnni: bool, gains: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni, raising=False)
    if capabilities is None:  # an older torch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert gains_from_int8("cpu") == gains
    assert not gains_from_int8("cuda") and not gains_from_int8("mps")
