"""Train one fold of an experiment from its recipe alone; an interrupted run continues to the same result.

On the CPU the result is the same bit for bit; on a GPU, sums depend on the order in which the hardware takes them.
Within an epoch nothing waits for the device: losses are summed there and read once, at the end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from CovidSegLib.allocator import freed_memory_kept
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.device import describe_device, resolve_device
from CovidSegLib.errors import DeviceError, InputError

from ..networks import build_experiment_network
from ..splits import Fold
from .batches import CropStream, Volumes
from .cache import PreparedCase
from .config import Experiment
from .loss import METRICS, batch_loss
from .run_folder import RunFolder
from .schedule import EarlyStopping, LearningRate
from .sides import sides_of_fold
from .world import World, average_gradients, share_batch_norm, share_buffers

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

#: Kinds of crops, for the seeds.
_TRAINING, _VALIDATION = 0, 1


class ExperimentFit:
    """A training run in a folder; `run` continues from its last checkpoint.

    Attributes:
        network: The network in its present state; its initial weights follow from the seed.
        epoch: Number of epochs done.
        history: A row per epoch, with the columns of `run_folder.COLUMNS`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cases: Sequence[PreparedCase],
        fold: Fold,
        fold_number: int,
        recipe: Experiment,
        device: str,
        world: World | None = None,
    ) -> None:
        """Begin a run, or resume the one in the folder.

        Args:
            folder: Made if need be.
            cases: Prepared cases, at least those of the fold.
            fold: The cases to learn from and those to validate on.
            fold_number: Counted from 0.
            recipe: All settings.
            device: auto, cpu, cuda, cuda:N or mps; there is no fallback to another one.
            world: The processes that share each batch; torch.distributed must be set up if there are several.

        Raises:
            DeviceError: The device is not available.
            InputError: A case of the fold is missing or on both sides, a side is empty, the labels do not fit the
                recipe, or the folder holds another run.
            ModelError: The checkpoint is damaged.
        """
        import torch

        self.recipe, self.world = recipe, world or World()
        self.device = torch.device(resolve_device(device))
        if recipe.patches.batch % self.world.size:
            raise InputError(
                f"a batch of {recipe.patches.batch} cannot be shared evenly by {self.world.size} processes; "
                "change patches.batch or their number"
            )
        training, validation = sides_of_fold(cases, fold=fold, classes=recipe.network.classes)
        self.folder = RunFolder(folder, fold=fold_number)
        if self.world.rank == 0:
            origin = {
                side: {case.name: case.key for case in group}
                for side, group in (("training", training), ("validation", validation))
            }
            self.folder.begin(recipe, origin={**origin, "device": self.device.type, "processes": self.world.size})
        self._seeds = (recipe.training.seed, fold_number)
        self._crops = (self._stream(_TRAINING, training), self._stream(_VALIDATION, validation))
        torch.manual_seed(recipe.training.seed)
        network, adam = recipe.network, recipe.optimizer
        self.network = build_experiment_network(network.name, classes=network.classes, options=network.options)
        self.network = self.network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if self.world.size > 1:
            self.network = share_batch_norm(self.network, device=self.device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=adam.learning_rate, betas=adam.betas, eps=adam.epsilon
        )
        self.rate = LearningRate(adam, plateau=recipe.training.plateau)
        self.stopping = EarlyStopping(patience=recipe.training.early_stopping_patience)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.epoch >= self.recipe.training.epochs or self.stopping.stops

    def run(self, *, epochs: int | None = None, tell: Callable[[str], object] = log.info) -> None:
        """Train to the end, or for a number of further epochs; a checkpoint is written after each epoch.

        Args:
            epochs: Number of further epochs; None: to the end.
            tell: Called with a line at the start, and a line per epoch.

        Raises:
            DeviceError: The GPU's memory does not suffice.
            InputError: The loss has become NaN or infinite, or another run is writing to the folder, or has written
                since this one was begun.
            OSError: A checkpoint cannot be written; the previous one is still there.
        """
        import torch

        last = math.inf if epochs is None else self.epoch + epochs
        try:
            with self._writing(), _fast(self.device):
                if self.world.rank == 0:
                    self.folder.check_unchanged()  # the checkpoint was read without the lock
                    self.folder.keep_history(self.history)
                shared = f", and {self.world.size - 1} other(s)" if self.world.size > 1 else ""
                tell(f"on {describe_device(str(self.device))}{shared}, after epoch {self.epoch}")
                while not self.finished and self.epoch < last:
                    row = self.run_epoch()
                    tell(", ".join(f"{name} {row[name]:.6g}" for name in ("epoch", "loss", "val_loss", "lr")))
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.folder.path}: out of memory on {self.device}; the run stands at epoch {self.epoch}. "
                "Close other programs on the GPU and run it again; or, in another folder, use precision bfloat16 or "
                "smaller patches, or share each batch between several GPUs (torchrun)."
            ) from error
        finally:
            self.folder.close()

    def run_epoch(self) -> dict[str, float]:
        """Train and validate for an epoch, save, and return its row of the history."""
        import torch

        # Only dropout draws from torch's own generator. Seeded anew, it does not depend on where a run was resumed.
        torch.manual_seed(int(np.random.SeedSequence([*self._seeds, self.epoch, self.world.rank]).generate_state(1)[0]))
        # The paper's histories have the learning rate with which the epoch began.
        rate = self.rate.at(self._batches_done)
        losses, validation = self._train().tolist(), self._validate().tolist()
        if not math.isfinite(losses[0]):
            raise InputError(
                f"{self.folder.path}: the loss of epoch {self.epoch + 1} is not a number; the run stands at the epoch "
                "before. Use precision float32 or a lower optimizer.learning_rate, in another folder."
            )
        self.epoch += 1
        row: dict[str, float] = {"epoch": self.epoch}
        row.update(zip(METRICS, losses, strict=True))
        row.update(zip((f"val_{name}" for name in METRICS), validation, strict=True))
        self.history.append({**row, "lr": rate})
        self.rate.end_epoch(losses[0])
        improved = self.stopping.end_epoch(losses[0])
        if self.world.rank == 0:
            self._save(improved=improved)
        return self.history[-1]

    def train_batch(self, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one optimiser step on a batch; return the batch's metrics, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        found = batch_loss(self._logits(image), labels, settings=self.recipe.loss)
        found.loss.backward()
        if self.world.size > 1:
            average_gradients(self.network, world=self.world)
        if not self._has_broken_gradients():
            self.optimizer.step()
        return found.metrics

    def _writing(self) -> AbstractContextManager[None]:
        """Lock the folder against other runs if this process is going to write to it."""
        return run_lock(self.folder.path) if self.world.rank == 0 and not self.finished else nullcontext()

    @property
    def _batches_done(self) -> int:
        return self.epoch * self.recipe.training.batches_per_epoch

    def _stream(self, kind: int, cases: Sequence[PreparedCase]) -> CropStream:
        recipe = self.recipe
        augmented = kind == _TRAINING or recipe.training.validation_augmented
        return CropStream(
            Volumes(cases, device=self.device),
            patches=recipe.patches,
            augmentation=recipe.augmentation if augmented else None,
            shuffled=kind == _TRAINING,
            seeds=(*self._seeds, kind),
        )

    def _train(self) -> torch.Tensor:
        """Train for an epoch; return its mean metrics over all processes."""
        import torch

        count = self.recipe.training.batches_per_epoch
        crops = self._crops[_TRAINING].epoch(self.epoch, crops=count * self.recipe.patches.batch, world=self.world)
        self.network.train()
        summed = torch.zeros(len(METRICS), device=self.device)
        for number, (image, labels) in enumerate(crops):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate.at(self._batches_done + number)
            summed += self.train_batch(image, labels)
        if self.world.size > 1:
            torch.distributed.all_reduce(summed)
            share_buffers(self.network)
        return summed / (count * self.world.size)

    def _validate(self) -> torch.Tensor:
        """Return the mean metrics over crops of the held-out cases; every process takes all of them."""
        import torch

        stream = self._crops[_VALIDATION]
        count = self.recipe.training.validation_crops * len(stream.volumes)
        self.network.eval()
        summed = torch.zeros(len(METRICS), device=self.device)
        with torch.inference_mode():
            for image, labels in stream.epoch(self.epoch, crops=count, world=World()):
                summed += len(image) * batch_loss(self._logits(image), labels, settings=self.recipe.loss).metrics
        return summed / count

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        import torch

        with autocast(self.device, precision=self.recipe.training.precision):
            return self.network(image.contiguous(memory_format=torch.channels_last_3d))  # type: ignore[no-any-return]

    def _has_broken_gradients(self) -> bool:
        """Tell whether a gradient is not finite, as bfloat16 convolutions on the CPU return now and then."""
        import torch

        if self.recipe.training.precision != "bfloat16" or self.device.type != "cpu":
            return False
        return not all(bool(torch.isfinite(p.grad).all()) for p in self.network.parameters() if p.grad is not None)

    def _save(self, *, improved: bool) -> None:
        self.folder.write_history(self.history)
        weights = self.network.state_dict()
        state: dict[str, Any] = {
            "network": weights,
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "stopping": self.stopping.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
        }
        best = {"network": weights, "epoch": self.epoch, "loss": self.stopping.best_loss}
        self.folder.save(state, best=best if improved else None)

    def _resume(self) -> None:
        state = self.folder.load()
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.stopping.load_state_dict(state["stopping"])
        self.epoch, self.history = state["epoch"], state["history"]


def autocast(device: torch.device, *, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which the network multiplies with this precision."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def _fast(device: torch.device) -> Iterator[None]:
    """Let cuDNN search for its fastest algorithms; on the CPU, keep freed memory for the next batch."""
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with freed_memory_kept() if device.type == "cpu" else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = before
