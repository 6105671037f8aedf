"""Everything between a volume and a step of the optimiser, on a device that is not the CPU; there need be none.

Its tensors have no values (torch's FakeTensor), so that whatever mixes it with the CPU, or waits for a number from it,
fails. That takes a process of its own: run by the test, this file is that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_experiment import ball_cases, tiny_recipe
from helpers_training import ball_case
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from CovidSegTraining import fit
from CovidSegTraining.experiment import fit as experiment_fit
from CovidSegTraining.experiment import run_folder
from CovidSegTraining.experiment.augmentation import Draw, Volume, crop_volume
from CovidSegTraining.experiment.fit import ExperimentFit
from CovidSegTraining.experiment.world import World
from CovidSegTraining.fit import Fit
from CovidSegTraining.losses import partial_label_loss
from CovidSegTraining.product.fit_config import FitConfig, NetworkConfig, Stage
from CovidSegTraining.product.patches import TrainingCase
from CovidSegTraining.splits import Fold

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "other:0"


def test_training_stays_on_its_device_and_never_waits_for_it() -> None:
    pytest.importorskip("torch.utils.backend_registration")
    paths = (ROOT, ROOT / "CovidSeg", Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [check.__name__ for check in CHECKS]


def mixing_and_waiting_fail() -> None:
    """Make sure that the other checks can fail."""
    tensor = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="two devices"):
        tensor + torch.ones(3)
    with pytest.raises(DataDependentOutputException):
        tensor.sum().item()


def experiment_crops() -> None:
    """Cut crops with each change alone, with all and with none."""
    plain = Draw(position_kji=(0.3, 0.3, 0.3), seed=7)
    changes: dict[str, Any] = {
        "flip_kji": (True, False, True),
        "contrast": 1.5,
        "brightness": 1.2,
        "gamma": 1.3,
        "noise_std": 0.05,
        "elastic": (100.0, 9.0),
        "angles_ijk": (0.1, 0.1, 0.1),
        "scale": 1.1,
    }
    draws = [plain, replace(plain, **changes), *(replace(plain, **{key: value}) for key, value in changes.items())]
    for interpolation, complete, draw in product(("cubic", "linear"), (True, False), draws):
        recipe = tiny_recipe(preprocessing__orient=True, augmentation__mirror__swaps_sides=True)
        assert recipe.augmentation is not None
        labels = torch.ones(40, 24, 20, dtype=torch.uint8, device=DEVICE)
        volume = Volume(torch.ones(40, 24, 20, device=DEVICE), labels, complete)
        settings = replace(recipe.augmentation, interpolation=interpolation)  # type: ignore[arg-type]
        for tensor in crop_volume(volume, draw=draw, size_kji=(16, 32, 16), settings=settings):
            assert tensor.shape == (16, 32, 16) and str(tensor.device) == DEVICE


def experiment_step() -> None:
    """Train the experiment's network on a batch of its stream."""
    fold, recipe = Fold(("case_0", "case_1"), ("case_2",)), tiny_recipe()
    with tempfile.TemporaryDirectory() as folder:
        run = ExperimentFit(Path(folder), cases=ball_cases(), fold=fold, fold_number=0, recipe=recipe, device=DEVICE)
    metrics = run.train_batch(*next(run._crops[0].epoch(0, crops=2, world=World())))
    assert str(metrics.device) == DEVICE


def product_step() -> None:
    """Train the product's network on patches with every change; what is left out asks whether a number is finite."""
    augmentation = FitConfig().augmentation
    always = {name: 1.0 for name in vars(augmentation) if name.endswith("_probability")}
    config = FitConfig(
        network=NetworkConfig(width=2),
        stages=(Stage(1.0, (16, 32, 32), 2),),
        augmentation=replace(augmentation, **always),
        lesions=replace(FitConfig().lesions, probability=1.0),
        device=DEVICE,
    )
    case = ball_case(seed=0)
    with tempfile.TemporaryDirectory() as folder:
        cases = [TrainingCase("case", case.hu_kji, case.codes_kji, 1.0)]
        run = Fit(Path(folder), cases=cases, config=config)
    batch = run.patches.batch(config.stages[0])
    logits = run.network(batch.image)
    loss = partial_label_loss(logits, batch.codes, voxel_weights=run._voxel_weights(batch))
    (loss + run._inconsistency(logits, batch)).backward()
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
    run.optimizer.step()
    run._update_average()
    assert str(loss.device) == DEVICE


CHECKS: tuple[Callable[[], None], ...] = (mixing_and_waiting_fail, experiment_crops, experiment_step, product_step)


class _Generator(torch.Generator):
    """A generator that says it is of a device, for which torch has none."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.on = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.on  # type: ignore[attr-defined, no-any-return]


@contextmanager
def _other_device() -> Iterator[None]:
    """Have a device "other" whose tensors have no values."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(DEVICE.partition(":")[0])
    with pytest.MonkeyPatch.context() as patch:
        # Or torch.tensor would ask the device for memory.
        patch.setattr(FakeTensorMode, "avoid_device_init", True)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # not for such a device
        patch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)
        patch.setattr(experiment_fit, "resolve_device", lambda device: device)
        for module, name in ((experiment_fit, "build_experiment_network"), (fit, "build_network")):
            patch.setattr(module, name, _built_on_device(getattr(module, name)))
        patch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)  # FakeTensors cannot move in a module
        # How many voxels are lung is a number that painting lesions does wait for.
        patch.setattr(torch.Tensor, "nonzero", lambda mask: torch.zeros(600, 3, dtype=torch.int64, device=mask.device))
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


def _built_on_device(build: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    def built(*arguments: Any, **options: Any) -> torch.nn.Module:
        with torch.device(DEVICE):
            return build(*arguments, **options)

    return built


if __name__ == "__main__":
    with _other_device():
        for check in CHECKS:
            check()
            print(check.__name__)
