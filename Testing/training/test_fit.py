from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from CovidSegLib.errors import InputError, ModelError
from CovidSegLib.network import NetworkConfig
from helpers_training import ball_case, write_ball_cache

from CovidSegTraining import fit as fit_module
from CovidSegTraining.cache import write_case
from CovidSegTraining.fit import Fit
from CovidSegTraining.losses import partial_label_loss
from CovidSegTraining.product.fit_config import FitConfig, Stage
from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.lesions import LesionRecipe
from CovidSegTraining.product.patches import Batch, load_cases

CONFIG = FitConfig(
    network=NetworkConfig(width=2),
    stages=(Stage(1.0, (16, 32, 32), 1),),
    steps=8,
    learning_rate=1e-2,
    consistency_weight=0.0,
    consistency_from=0.0,
    exchange_share=0.0,
    bfloat16=False,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_ball_cache(tmp_path / "cache")


def _fit(folder: Path, cache: Path, config: FitConfig = CONFIG) -> Fit:
    return Fit(folder, cases=load_cases(cache), config=config)


def _weights(fit: Fit) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in fit.network.state_dict().items()}


def test_loss_falls(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=60, lesions=LesionRecipe(probability=0.0)))
    batch = fit.patches.batch(CONFIG.stages[0])

    def loss() -> float:
        with torch.no_grad():
            return partial_label_loss(fit.network.train()(batch.image), batch.codes).item()

    before = loss()
    fit.run()
    assert fit.step == 60
    assert loss() < 0.75 * before


def test_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path, cache: Path) -> None:
    undisturbed = _fit(tmp_path / "a", cache)
    undisturbed.run()
    first = _fit(tmp_path / "b", cache)
    for _ in range(3):
        first._train_step(first.progress())
    first.save()
    second = _fit(tmp_path / "b", cache)
    assert second.step == 3
    second.run()
    assert second.step == undisturbed.step == 8
    for name, tensor in _weights(undisturbed).items():
        torch.testing.assert_close(second.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_counters_of_steps_stay_on_the_cpu_wherever_a_run_goes_on(tmp_path: Path, cache: Path) -> None:
    first = _fit(tmp_path / "run", cache)
    first._train_step(first.progress())
    first.save()
    resumed = _fit(tmp_path / "run", cache, replace(CONFIG, device="meta"))
    states = resumed.optimizer.state.values()
    assert len(states) == len(list(resumed.network.parameters()))
    # On a GPU the optimiser would wait for each of them in every step.
    assert {(state["step"].device.type, state["exp_avg"].device.type) for state in states} == {("cpu", "meta")}


def test_run_goes_on_longer_but_not_with_other_settings(tmp_path: Path, cache: Path) -> None:
    _fit(tmp_path / "run", cache).save()
    _fit(tmp_path / "run", cache, replace(CONFIG, steps=CONFIG.steps + 1, minutes=1.0))
    other = replace(CONFIG, augmentation=replace(CONFIG.augmentation, noise_hu=CONFIG.augmentation.noise_hu + 1.0))
    with pytest.raises(
        InputError, match=r"begun with other settings \(fit\.augmentation\.noise_hu is .* choose another"
    ):
        _fit(tmp_path / "run", cache, other)


def test_run_goes_on_though_it_was_begun_before_a_setting_existed(tmp_path: Path, cache: Path) -> None:
    _fit(tmp_path / "run", cache).save()
    path = tmp_path / "run" / "config.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    del before["augmentation"]["mirror_probability"], before["exchange_share"]
    path.write_text(json.dumps(before), encoding="utf-8")
    _fit(tmp_path / "run", cache)


def test_damaged_settings_of_a_run_are_named(tmp_path: Path, cache: Path) -> None:
    _fit(tmp_path / "run", cache).save()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged; delete it"):
        _fit(tmp_path / "run", cache)


def test_finished_run_is_left_as_it_is(tmp_path: Path, cache: Path) -> None:
    _fit(tmp_path / "run", cache).run()
    before = (tmp_path / "run" / "average.pt").read_bytes()
    again = _fit(tmp_path / "run", cache)
    again.run()
    assert again.step == 8
    assert (tmp_path / "run" / "average.pt").read_bytes() == before


def test_step_with_a_gradient_that_is_no_number_changes_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = _fit(tmp_path / "run", cache)
    parameters = [p.detach().clone() for p in fit.network.parameters()]
    monkeypatch.setattr(fit_module, "partial_label_loss", lambda logits, codes, **_: logits.sum() * float("nan"))
    fit._train_step(0.5)
    assert (fit.step, fit.skipped) == (1, 1)
    for before, now in zip(parameters, fit.network.parameters(), strict=True):
        assert torch.equal(before, now)


def test_checkpoint_survives_a_crash_while_it_is_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = _fit(tmp_path / "run", cache)
    fit._train_step(0.0)
    fit.save()
    fit._train_step(0.1)

    def half(state: Any, stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        fit.save()
    monkeypatch.undo()
    assert _fit(tmp_path / "run", cache).step == 1


def test_full_disk_is_said_as_such(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=1))
    fit.save()
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    resource = pytest.importorskip("resource", reason="needs a limit on files' size, as POSIX has")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # Python ignores the signal
    try:
        with pytest.raises(OSError, match="File too large"):  # and no RuntimeError of torch
            fit.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.part"))


def test_norm_is_frozen_late_with_the_averages_statistics(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=4, freeze_norm_from=0.5))
    for _ in range(2):
        fit._train_step(fit.progress())
    assert not fit.norm_frozen
    fit._train_step(fit.progress())
    assert fit.norm_frozen
    frozen = {name: t for name, t in _weights(fit).items() if "running" in name}
    fit._train_step(fit.progress())
    for name, tensor in frozen.items():
        assert torch.equal(fit.network.state_dict()[name], tensor)


def test_run_tells_what_it_does_from_the_start_and_what_takes_long(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(fit_module, "TOLD_EVERY_S", 3600.0)
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=4, minutes=90.0, freeze_norm_from=0.5))
    fit.run()
    begin, first, measured = caplog.messages
    parameters = sum(parameter.numel() for parameter in fit.network.parameters())
    assert begin.startswith(f"2 cases, {parameters:,} parameters, on CPU") and " in float32; " in begin
    assert begin.endswith("after step 0 and 0.0 minutes, to 4 steps, or 90 minutes and the step under way")
    assert first.startswith("step 1, minutes ") and ", loss " in first
    assert measured == "after step 2: measuring batch normalisation anew, over 32 batches"
    assert not (tmp_path / "run" / "history.csv").exists()  # as no checkpoint was due
    caplog.clear()
    monkeypatch.setattr(fit_module, "TOLD_EVERY_S", 0.0)
    _fit(tmp_path / "run", cache, replace(CONFIG, steps=6, freeze_norm_from=0.5)).run()
    begin, *figures = caplog.messages
    assert "; after step 4 and " in begin and begin.endswith(" minutes, to 6 steps")
    assert [line.partition(",")[0] for line in figures] == ["step 5", "step 6"]


@pytest.mark.parametrize("gains", [True, False])
def test_bfloat16_is_computed_in_only_where_the_hardware_gains(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gains: bool
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(fit_module, "gains_from_bfloat16", lambda device: gains)
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=1, bfloat16=True))
    kinds = []
    fit.network.register_forward_hook(lambda network, inputs, logits: kinds.append(logits.dtype))
    fit.run()
    assert kinds == [torch.bfloat16 if gains else torch.float32]
    assert f" in {'bfloat16' if gains else 'float32'}; " in caplog.messages[0]


def test_figures_are_kept_with_every_checkpoint(tmp_path: Path, cache: Path) -> None:
    for steps in (2, 3):
        _fit(tmp_path / "run", cache, replace(CONFIG, steps=steps, save_every_s=0.0)).run()
    header, *rows = (tmp_path / "run" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert header == "step,minutes,progress,learning_rate,loss,skipped"
    assert [row.partition(",")[0] for row in rows] == ["1", "2", "3"]


def test_air_that_is_no_lung_and_infection_weigh_as_the_settings_say(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, air_below_hu=-600.0, air_weight=3.0, infection_weight=2.0))
    hu = torch.tensor([[[[-900.0, -550.0, -900.0, -900.0, 40.0]]]])
    codes = torch.tensor(
        [[[[Code.BACKGROUND, Code.BACKGROUND, Code.LEFT_LUNG, Code.UNKNOWN, Code.INFECTION]]]], dtype=torch.uint8
    )
    image = (hu[:, None] + 500.0) / 750.0
    weights = fit._voxel_weights(Batch(image=image, codes=codes, other=image, shown=codes >= 0))
    assert weights.flatten().tolist() == [3.0, 1.0, 1.0, 1.0, 2.0]


def test_consistency_brings_the_answer_to_degraded_patches_near_that_to_undegraded_ones(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "partial_label_loss", lambda logits, codes, **_: 0.0 * logits.sum())
    monkeypatch.setattr(Fit, "_update_average", lambda self: None)  # a teacher that stays where it is
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=40, consistency_weight=1.0, freeze_norm_from=0.0))
    batch = fit.patches.batch(CONFIG.stages[0])
    assert not torch.equal(batch.image, batch.other)

    def apart() -> float:
        with torch.no_grad():
            return fit._inconsistency(fit.network.eval()(batch.image), batch).item()

    with torch.no_grad():
        for parameter in fit.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = apart()
    fit.run()
    assert apart() < 0.5 * before


def test_averaged_weights_teach_from_the_share_of_the_run_that_the_settings_say(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    fit = _fit(tmp_path / "run", cache, replace(CONFIG, steps=4, consistency_weight=1.0, consistency_from=0.5))
    monkeypatch.setattr(fit, "_inconsistency", lambda logits, _: asked.append(fit.step) or 0.0 * logits.sum())
    fit.run()
    assert asked == [2, 3]


def test_start_from_takes_other_weights_but_not_in_a_resumed_run(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache)
    other = {name: tensor + 1 for name, tensor in _weights(fit).items() if not name.endswith("num_batches_tracked")}
    fit.start_from(other)
    assert torch.equal(fit.network.state_dict()["head.bias"], other["head.bias"])
    assert torch.equal(fit.average.state_dict()["head.bias"], other["head.bias"])
    fit._train_step(0.5)
    fit.save()
    resumed = _fit(tmp_path / "run", cache)
    resumed.start_from({name: tensor * 0 for name, tensor in other.items()})
    assert resumed.network.state_dict()["head.weight"].any()


def test_learning_rate_rises_then_falls_to_nothing(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache)
    rates = [fit.learning_rate(p) for p in np.linspace(0, 1, 101)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(1e-2, rel=0.01) and peak <= 4
    assert all(a >= b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))
    assert rates[-1] < 1e-5


def test_settings_are_written_beside_the_weights(tmp_path: Path, cache: Path) -> None:
    _fit(tmp_path / "run", cache).run()
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["network"]["width"] == 2 and written["stages"][0]["patch_kji"] == [16, 32, 32]


def test_empty_cache_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="covidseg-train prepare"):
        load_cases(tmp_path)


def test_measured_only_case_in_the_cache_is_refused(cache: Path) -> None:
    write_case(cache / "normal001.npz", ball_case(seed=0))
    with pytest.raises(InputError, match=r"normal001.*measured only"):
        load_cases(cache)


@pytest.mark.parametrize("content", [b"", b"hi", b"PK\x03\x04 cut short"])
def test_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, cache: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint.pt: damaged; delete it to begin again"):
        _fit(tmp_path / "run", cache)


def test_run_does_not_go_on_with_another_network(tmp_path: Path, cache: Path) -> None:
    fit = _fit(tmp_path / "run", cache)
    fit.save()
    wider = replace(CONFIG, network=NetworkConfig(width=4))
    with pytest.raises(InputError, match=r"fit\.network\.width is 2 in config\.json there, 4 here"):
        _fit(tmp_path / "run", cache, wider)
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"checkpoint.pt: of another network than fit.network of the settings"):
        _fit(tmp_path / "run", cache, wider)
    no_multiple = replace(CONFIG, network=NetworkConfig(width=3))
    with pytest.raises(ModelError, match="the weights to begin with are of another network"):
        _fit(tmp_path / "other", cache, no_multiple).start_from(_weights(fit))


def test_run_begins_with_what_fewer_filters_compute(tmp_path: Path, cache: Path) -> None:
    narrow = _fit(tmp_path / "narrow", cache)
    wide = _fit(tmp_path / "wide", cache, replace(CONFIG, network=NetworkConfig(width=4)))
    wide.start_from(_weights(narrow))
    image = wide.patches.batch(CONFIG.stages[0]).image
    with torch.no_grad():
        expected, found = narrow.network.eval()(image), wide.average.eval()(image)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
