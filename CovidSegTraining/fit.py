"""Train a network on prepared cases: the product recipe, resumable, on CPU or GPU."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from CovidSegLib.allocator import freed_memory_kept
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.device import describe_device, gains_from_bfloat16
from CovidSegLib.errors import ModelError
from CovidSegLib.network import build_network
from CovidSegLib.preprocess import unit_window

from .checkpoint import read_state, write_state
from .losses import consistency_loss, partial_label_loss
from .product.fit_checks import refuse_other_settings
from .product.fit_config import FitConfig, Stage
from .product.label_codes import Code
from .product.patches import Batch, PatchSampler, TrainingCase
from .product.widen import widened
from .whole_files import write_whole

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
#: How often the run tells how far it is, in seconds, beside its checkpoints.
TOLD_EVERY_S = 30.0
#: Over how many batches the statistics of batch normalisation are measured before they are fixed.
NORM_BATCHES = 32


class Fit:
    """A training run in a folder; `run` continues from its last checkpoint.

    Args:
        folder: The run's folder; made if need be.
        cases: What to learn from.
        config: The settings.
        teacher: A trained network whose answers are learnt instead of those of the averaged weights.
    """

    def __init__(
        self, folder: Path, *, cases: list[TrainingCase], config: FitConfig, teacher: torch.nn.Module | None = None
    ) -> None:
        import torch

        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.device = torch.device(config.device)
        # Emulated, it would take twice as long as float32.
        self.in_bfloat16 = config.bfloat16 and gains_from_bfloat16(config.device)
        self.network = self._on_device(build_network(config.network))
        self.average = build_network(config.network).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.teacher = self.average if teacher is None else self._on_device(teacher)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.patches = PatchSampler(cases, config=config, rng=self.rng)
        self.step, self.skipped, self.elapsed_s = 0, 0, 0.0
        self.norm_frozen = False
        self._resume()

    def run(self) -> None:
        """Train to the end of the budget; a checkpoint is kept at regular intervals and at the end.

        Raises:
            InputError: Another run is writing to the folder.
        """
        # On the CPU a step is up to twice as fast if its blocks are not given back to the system each time.
        with run_lock(self.folder), freed_memory_kept() if self.device.type == "cpu" else nullcontext():
            self._resume()  # another run may have gone on between the first reading and the lock
            self._run()

    def _run(self) -> None:
        self._announce()
        losses: list[float] = []
        saved = time.monotonic()
        started, told = saved - self.elapsed_s, -math.inf  # the first step tells how long one takes
        while (progress := self.progress()) < 1.0:
            losses.append(self._train_step(progress))
            now = time.monotonic()
            self.elapsed_s = now - started
            is_due = now - saved > self.config.save_every_s
            if is_due or now - told > TOLD_EVERY_S:
                told, figures = now, self._figures(progress, losses)
                log.info(", ".join(f"{name} {value}" for name, value in figures.items()))
            if is_due:
                saved, losses = now, []
                self.save()
                self._record(figures)
        self.save()

    def start_from(self, state: dict[str, torch.Tensor]) -> None:
        """Begin with weights of another run instead of random ones; a resumed run keeps its own.

        Weights of fewer filters are widened, if the settings' width is a multiple of theirs.

        Raises:
            ModelError: The weights are of another network.
        """
        if self.step == 0:
            wide = widened(state, config=self.config.network, seed=self.config.seed)
            # Weights exported to a bundle lack the counters of batches.
            complete = {**self.network.state_dict(), **wide}
            try:
                self.network.load_state_dict(complete)
            except RuntimeError as error:
                raise ModelError(
                    "the weights to begin with are of another network than fit.network of the settings: "
                    "give others, or the settings that they were trained with"
                ) from error
            self.average.load_state_dict(complete)

    def progress(self) -> float:
        """Return how much of the budget is used, 0 to 1."""
        by_time = self.elapsed_s / (60.0 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def learning_rate(self, progress: float) -> float:
        """Return the one-cycle learning rate: a short linear rise, then a cosine to zero."""
        if progress < self.config.warm_up:
            return self.config.learning_rate * (0.05 + 0.95 * progress / self.config.warm_up)
        falling = (progress - self.config.warm_up) / (1.0 - self.config.warm_up)
        return self.config.learning_rate * (0.5 + 0.5 * float(np.cos(np.pi * falling))) + 1e-6

    def recalibrate_norm(self, stage: Stage) -> None:
        """Measure the statistics of batch normalisation afresh over training patches, and keep them from now on."""
        import torch

        log.info("after step %d: measuring batch normalisation anew, over %d batches", self.step, NORM_BATCHES)
        self.network.load_state_dict(self.average.state_dict())
        for norm in _norms(self.network):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        self.network.train()
        with torch.no_grad(), self._autocast():
            for _ in range(NORM_BATCHES):
                self.network(self.patches.batch(stage).image)
        self.average.load_state_dict(self.network.state_dict())
        self.norm_frozen = True

    def save(self) -> None:
        """Write the checkpoint and the averaged weights, each whole or not at all.

        Raises:
            OSError: The disk is full, for instance.
        """
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "norm_frozen": self.norm_frozen,
            "rng": self.rng.bit_generator.state,
        }
        write_state(self.folder / "checkpoint.pt", state)
        write_state(self.folder / "average.pt", self.average.state_dict())
        config = json.dumps(asdict(self.config), indent=2) + "\n"
        write_whole(self.folder / "config.json", config.encode("utf-8"))

    def _train_step(self, progress: float) -> float:
        import torch

        stage = next(s for s in self.config.stages if progress < s.until)
        if progress >= self.config.freeze_norm_from and not self.norm_frozen:
            self.recalibrate_norm(stage)
        batch = self.patches.batch(stage)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        self.network.train()
        if self.norm_frozen:
            for norm in _norms(self.network):
                norm.eval()
        with self._autocast():
            logits = self.network(batch.image)
        loss = partial_label_loss(logits, batch.codes, voxel_weights=self._voxel_weights(batch))
        if self.config.consistency_weight and progress >= self.config.consistency_from:
            loss = loss + self.config.consistency_weight * self._inconsistency(logits, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.step += 1
        if not torch.isfinite(norm):
            # bfloat16 convolutions on the CPU now and then return a gradient that is not a number.
            self.skipped += 1
            return float(loss.detach())
        self.optimizer.step()
        self._update_average()
        return float(loss.detach())

    def _on_device(self, network: torch.nn.Module) -> torch.nn.Module:
        import torch

        return network.to(self.device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _autocast(self) -> torch.autocast:
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.in_bfloat16)

    def _inconsistency(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return how far the answer is from what the teacher says of the patches' other state.

        The averaged weights are a mean teacher (Tarvainen & Valpola 2017): slices, kernel and noise shall not change an
        answer, also where no label says which one is right. Another network in their place is distilled (Hinton et al.
        2015).
        """
        import torch

        self.teacher.eval()
        with torch.no_grad(), self._autocast():
            wanted = self.teacher(batch.other)
        return consistency_loss(logits, wanted, counted=batch.shown)

    def _voxel_weights(self, batch: Batch) -> torch.Tensor:
        """Return the weights (batch, k, j, i) in the cross-entropy: more for infection and air outside lungs."""
        config = self.config
        air_below = unit_window(config.air_below_hu, window_hu=config.preprocessing.window_hu)
        air = (batch.codes == int(Code.BACKGROUND)) & (batch.image[:, 0] < air_below)
        infection = batch.codes == int(Code.INFECTION)
        return 1.0 + (config.air_weight - 1.0) * air.float() + (config.infection_weight - 1.0) * infection.float()

    def _update_average(self) -> None:
        import torch

        # Early on the average must forget faster than its final rate.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value.to(mean.dtype), 1.0 - decay)
                else:
                    mean.copy_(value)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        refuse_other_settings(self.folder, config=self.config)
        state = read_state(path, remedy="delete it to begin again, or choose another folder")
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise ModelError(
                f"{path}: of another network than fit.network of the settings; "
                "give the --config that the run was begun with, or choose another folder"
            ) from error
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.norm_frozen = state.get("norm_frozen", False)
        self.rng.bit_generator.state = state["rng"]

    def _announce(self) -> None:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        minutes = f", or {self.config.minutes:g} minutes and the step under way" if self.config.minutes else ""
        log.info(
            f"{len(self.patches.hu)} cases, {parameters:,} parameters, on {describe_device(str(self.device))} in "
            f"{'bfloat16' if self.in_bfloat16 else 'float32'}; "
            f"after step {self.step} and {self.elapsed_s / 60:.1f} minutes, to {self.config.steps:,} steps{minutes}"
        )

    def _figures(self, progress: float, losses: list[float]) -> dict[str, float]:
        return {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "progress": round(progress, 4),
            "learning_rate": round(self.learning_rate(progress), 6),
            "loss": round(float(np.mean(losses)), 4),
            "skipped": self.skipped,
        }

    def _record(self, figures: dict[str, float]) -> None:
        with (self.folder / "history.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(figures))
            if not file.tell():
                writer.writeheader()
            writer.writerow(figures)


def _norms(network: torch.nn.Module) -> list[Any]:
    from torch import nn

    return [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
