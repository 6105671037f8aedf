"""How long a run will take, said before Segment is pressed, and where that is known from."""

from __future__ import annotations

from typing import Any

import pytest
from CovidSegLib.expected_time import Processor
from helpers_panel import Journey, module

pytestmark = pytest.mark.slicer

DEVICE = "CPU (a test), 2 threads"
GPU = "NVIDIA H200, 140 GB"


@pytest.fixture(autouse=True)
def two_cores(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first estimate does not depend on the machine of the test."""
    here = classmethod(lambda cls, *, quantized: Processor(cores=2, precision="bfloat16"))
    monkeypatch.setattr(module("expected_time").Processor, "here", here)


def expected_s(journey: Journey, *, mode: str, network_s: float | None = None, rest: float = 1.0) -> str:
    """Return the time that follows from the glance at the chosen CT."""
    expected_time = module("expected_time")
    line = journey.panel.device
    work = line._work(mode=mode)
    if network_s is None:
        rates = expected_time.first_rates(Processor(cores=2, precision="bfloat16"), width=16)
    else:
        rates = expected_time.Rates(network_s, rest)
    return str(module("panel.texts").duration_text(rates.seconds(work, loaded=True)))


def a_run(journey: Journey, *, device: str = "cpu", mode: str = "accurate", times: float) -> dict[str, Any]:
    """Return the runtime of a run that took so many times what the first estimate says."""
    work = journey.panel.device._work(mode=mode)
    stages = {"preprocess": times * work.rest_s, "load": 50.0, "network": times * 0.35 * work.in_patches}
    return {"device": device, "mode": mode, "seconds": sum(stages.values()), "stages": stages}


def shown(journey: Journey) -> str:
    return str(journey.ui.deviceStatusLabel.text)


def source(journey: Journey) -> str:
    return str(journey.ui.deviceStatusLabel.toolTip)


def test_nothing_is_said_of_time_without_a_ct(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    assert shown(journey) == DEVICE
    assert source(journey) == "The device that will be used."


def test_first_estimate_follows_the_mode(host: Any) -> None:
    journey = Journey(host)
    accurate = shown(journey)
    assert accurate == f"{DEVICE}, {expected_s(journey, mode='accurate')}"
    assert "first estimate" in source(journey)
    assert "2 processor cores" in source(journey)
    journey.ui.modeSelector.setCurrentIndex(1)
    assert shown(journey) == f"{DEVICE}, {expected_s(journey, mode='fast')}" != accurate


def test_last_run_replaces_the_first_estimate_of_its_mode(host: Any) -> None:
    journey = Journey(host)
    first = shown(journey)
    journey.panel.device.remember(a_run(journey, times=10.0))
    assert shown(journey) == f"{DEVICE}, {expected_s(journey, mode='accurate', network_s=3.5, rest=10.0)}" != first
    assert "reckoned from the last run on this computer" in source(journey)
    journey.ui.modeSelector.setCurrentIndex(1)
    assert "first estimate" in source(journey), "not known of this mode"
    journey.ui.modeSelector.setCurrentIndex(0)
    host.close_panel(journey.widget)
    assert "reckoned from the last run" in source(Journey(host, with_ct=False)), "kept in Slicer's settings"


def test_gpu_that_never_ran_is_given_no_time(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    monkeypatch.setattr(module("panel.device"), "ask_torch", lambda device: ("cuda", GPU))
    journey.ui.deviceSelector.setCurrentIndex(2)
    assert shown(journey) == GPU
    assert "known after the first run" in source(journey)
    journey.panel.device.remember(a_run(journey, device="cuda:0", times=10.0))
    assert shown(journey) == f"{GPU}, {expected_s(journey, mode='accurate', network_s=3.5, rest=10.0)}"


def test_another_ct_is_looked_at_once(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    shapes = {0: (100, 150, 200), 1: (200, 300, 300)}

    def network_shape(values_kji: Any, **others: Any) -> tuple[int, int, int]:
        looked.append(values_kji)
        return shapes[len(looked) - 1]

    monkeypatch.setattr(module("panel.device"), "network_shape", network_shape)
    journey = Journey(host)
    for _ in range(3):
        journey.panel.refresh()
    assert len(looked) == 1
    small = shown(journey)
    journey.parameters.inputVolume = journey.add_ct(seed=2)
    journey.panel.refresh()
    assert len(looked) == 2
    assert shown(journey) == f"{DEVICE}, {expected_s(journey, mode='accurate')}" != small


def test_volume_without_lungs_is_given_no_time(host: Any) -> None:
    import slicer

    journey = Journey(host)
    slicer.util.arrayFromVolume(journey.volume)[:] = 40
    slicer.util.arrayFromVolumeModified(journey.volume)
    journey.panel.refresh()
    assert shown(journey) == DEVICE


def test_time_on_the_processor_is_known_before_torch_is_loaded(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    loaded_s = shown(journey)
    monkeypatch.setattr(module("panel.device"), "torch_is_loaded", lambda: False)
    journey.panel.device._kind = ""
    journey.panel.device.look_again()
    assert shown(journey).startswith("Known once PyTorch is loaded. On the processor about ")
    assert shown(journey).partition("about")[2] != loaded_s.partition("about")[2], "loading takes time as well"
    journey.ui.deviceSelector.setCurrentIndex(2)
    assert shown(journey) == "Known once PyTorch is loaded.", "nobody knows of a GPU"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "about 1 s"),
        (7.4, "about 7 s"),
        (41.2, "about 40 s"),
        (58.0, "about 1 min"),
        (81.0, "about 1 min 20 s"),
        (299.0, "about 5 min"),
        (1234.0, "about 21 min"),
    ],
)
def test_durations_promise_no_more_than_they_can(host: Any, seconds: float, text: str) -> None:
    assert module("panel.texts").duration_text(seconds) == text
