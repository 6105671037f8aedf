"""Train a network on prepared cases: the product recipe, resumable, on CPU or GPU."""

from __future__ import annotations

import csv
import json
import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from CovidSegLib.allocator import freed_memory_kept
from CovidSegLib.errors import InputError
from CovidSegLib.network import build_network

from .augmentation import degrade, sample_patch
from .cache import read_case
from .centers import PatchCenters
from .data import refuse_measured_only
from .fit_config import FitConfig, Stage
from .label_codes import Code
from .lesions import paint_lesions
from .losses import partial_label_loss
from .whole_files import whole_file, write_whole

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case on the network's grid: HU int16 and label codes uint8, both (k, j, i)."""

    name: str
    hu_kji: np.ndarray
    codes_kji: np.ndarray
    weight: float


def load_cases(folder: Path) -> list[TrainingCase]:
    """Return the cases of a cache folder written by `prepare`.

    Raises:
        InputError: There are none, one is damaged, or one is measured only.
    """
    cases = []
    for path in sorted(folder.glob("*.npz")):
        refuse_measured_only(Path(path.name))
        cached = read_case(path)
        cases.append(TrainingCase(path.stem, cached.hu_kji, cached.codes_kji, cached.weight))
    if not cases:
        raise InputError(f"no prepared cases in {folder}: run 'covidseg-train prepare' first")
    return cases


class Fit:
    """A training run in a folder; `run` continues from its last checkpoint."""

    def __init__(self, folder: Path, *, cases: list[TrainingCase], config: FitConfig) -> None:
        import torch

        self.folder, self.cases, self.config = folder, cases, config
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.device = torch.device(config.device)
        self.network = build_network(config.network).to(self.device)
        self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = build_network(config.network).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.hu = [torch.from_numpy(c.hu_kji.astype(np.float32)).to(self.device) for c in cases]
        self.codes = [torch.from_numpy(c.codes_kji).to(self.device) for c in cases]
        self.centers = [PatchCenters(c.codes_kji, hu_kji=c.hu_kji, air_below_hu=config.air_below_hu) for c in cases]
        self.weights = np.array([c.weight for c in cases]) / sum(c.weight for c in cases)
        self.step, self.skipped, self.elapsed_s = 0, 0, 0.0
        self.norm_frozen = False
        self._resume()

    def run(self) -> None:
        """Train to the end of the budget; a checkpoint is kept at regular intervals and at the end."""
        # On the CPU a step is up to twice as fast if its blocks are not given back to the system each time.
        with freed_memory_kept() if self.device.type == "cpu" else nullcontext():
            self._run()

    def _run(self) -> None:
        losses: list[float] = []
        saved = started = time.monotonic() - self.elapsed_s
        while (progress := self.progress()) < 1.0:
            losses.append(self._train_step(progress))
            self.elapsed_s = time.monotonic() - started
            if time.monotonic() - saved > self.config.save_every_s:
                saved = time.monotonic()
                self.save()
                self._log(progress, losses)
                losses = []
        self.save()

    def start_from(self, state: dict[str, torch.Tensor]) -> None:
        """Begin with weights of another run instead of random ones; a resumed run keeps its own.

        Raises:
            RuntimeError: The weights are of another network.
        """
        if self.step == 0:
            # Weights exported to a bundle lack the counters of batches.
            complete = {**self.network.state_dict(), **state}
            self.network.load_state_dict(complete)
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

    def batch(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Return network input (batch, 1, k, j, i) in [-1, 1] and codes (batch, k, j, i)."""
        import torch

        recipe, outside_hu = self.config.preprocessing, self.config.preprocessing.outside_hu
        spacing_kji_mm = (recipe.spacing_ijk_mm[2], recipe.spacing_ijk_mm[1], recipe.spacing_ijk_mm[0])
        images, labels = [], []
        for _ in range(stage.batch):
            n = int(self.rng.choice(len(self.cases), p=self.weights))
            hu, codes = sample_patch(
                self.hu[n],
                self.codes[n],
                center_kji=self.centers[n].draw(
                    patch_kji=stage.patch_kji, infection_share=self.config.infection_share, rng=self.rng
                ),
                patch_kji=stage.patch_kji,
                spacing_kji_mm=spacing_kji_mm,
                recipe=self.config.augmentation,
                outside_hu=outside_hu,
                rng=self.rng,
            )
            hu, codes = paint_lesions(
                hu, codes, spacing_kji_mm=spacing_kji_mm, recipe=self.config.lesions, rng=self.rng
            )
            hu, codes = degrade(hu, codes, recipe=self.config.augmentation, outside_hu=outside_hu, rng=self.rng)
            images.append(hu)
            labels.append(codes)
        lower, upper = recipe.window_hu
        image = (torch.stack(images).clamp(lower, upper) - (lower + upper) / 2.0) / ((upper - lower) / 2.0)
        return image[:, None].contiguous(memory_format=torch.channels_last_3d), torch.stack(labels)

    def recalibrate_norm(self, stage: Stage, *, batches: int = 32) -> None:
        """Measure the statistics of batch normalisation afresh over training patches, and keep them from now on."""
        import torch

        self.network.load_state_dict(self.average.state_dict())
        for norm in _norms(self.network):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        self.network.train()
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16):
            for _ in range(batches):
                self.network(self.batch(stage)[0])
        self.average.load_state_dict(self.network.state_dict())
        self.norm_frozen = True

    def save(self) -> None:
        """Write the checkpoint and the averaged weights, each whole or not at all."""
        import torch

        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "norm_frozen": self.norm_frozen,
            "rng": self.rng.bit_generator.state,
        }
        with whole_file(self.folder / "checkpoint.pt") as aside:
            torch.save(state, aside)
        with whole_file(self.folder / "average.pt") as aside:
            torch.save(self.average.state_dict(), aside)
        config = json.dumps(asdict(self.config), indent=2) + "\n"
        write_whole(self.folder / "config.json", config.encode("utf-8"))

    def _train_step(self, progress: float) -> float:
        import torch

        stage = next(s for s in self.config.stages if progress < s.until)
        if progress >= self.config.freeze_norm_from and not self.norm_frozen:
            self.recalibrate_norm(stage)
        image, codes = self.batch(stage)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        self.network.train()
        if self.norm_frozen:
            for norm in _norms(self.network):
                norm.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16):
            logits = self.network(image)
        loss = partial_label_loss(logits, codes, voxel_weights=self._voxel_weights(image[:, 0], codes))
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

    def _voxel_weights(self, image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the weights (batch, k, j, i) in the cross-entropy: more for infection and air outside lungs."""
        config = self.config
        lower, upper = config.preprocessing.window_hu
        air_below = (config.air_below_hu - (lower + upper) / 2.0) / ((upper - lower) / 2.0)
        air = (codes == int(Code.BACKGROUND)) & (image < air_below)
        infection = codes == int(Code.INFECTION)
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
        import torch

        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.norm_frozen = state.get("norm_frozen", False)
        self.rng.bit_generator.state = state["rng"]
        log.info("continuing at step %d", self.step)

    def _log(self, progress: float, losses: list[float]) -> None:
        row = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "progress": round(progress, 4),
            "learning_rate": round(self.learning_rate(progress), 6),
            "loss": round(float(np.mean(losses)), 4),
            "skipped": self.skipped,
        }
        path = self.folder / "history.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        log.info("%s", row)


def _norms(network: torch.nn.Module) -> list[Any]:
    from torch import nn

    return [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
