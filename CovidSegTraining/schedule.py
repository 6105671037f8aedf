"""When the learning rate falls, and when training ends: as Keras's callbacks decide on the loss of each epoch."""

from __future__ import annotations

import math
from typing import Any

from .experiment_config import Adam, Plateau


class LearningRate:
    """The learning rate of every batch.

    torch's ReduceLROnPlateau decides as Keras's does once two of its numbers are one smaller: torch reduces when
    the bad epochs exceed the patience, Keras when they reach it; and the last epoch of a cooldown already counts
    in Keras.
    """

    def __init__(self, adam: Adam, *, plateau: Plateau | None) -> None:
        """Start at the optimiser's learning rate.

        Args:
            adam: Learning rate, and its decay per batch.
            plateau: None: the rate does not depend on the loss.
        """
        import torch

        self._decay = adam.decay
        # torch's scheduler acts on an optimiser; this one holds the rate, and nothing else.
        self._holder = torch.optim.SGD([torch.zeros(1)], lr=adam.learning_rate)
        self._plateau = None
        if plateau is not None:
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self._holder,
                factor=plateau.factor,
                patience=plateau.patience - 1,
                threshold=plateau.min_delta,
                threshold_mode="abs",
                cooldown=max(plateau.cooldown - 1, 0),
                min_lr=plateau.minimum,
                eps=0.0,
            )

    def at(self, batch: int) -> float:
        """Return the rate of a batch, counted from 0 over the whole run."""
        return float(self._holder.param_groups[0]["lr"]) / (1.0 + self._decay * batch)

    def end_epoch(self, loss: float) -> None:
        """Take the training loss of an epoch into account."""
        if self._plateau is not None:
            self._plateau.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""
        plateau = None if self._plateau is None else self._plateau.state_dict()
        return {"rate": self._holder.param_groups[0]["lr"], "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self._holder.param_groups[0]["lr"] = state["rate"]
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])


class EarlyStopping:
    """The lowest training loss so far, and for how many epochs it has not been beaten."""

    def __init__(self, *, patience: int | None) -> None:
        """Begin; with `patience` None it never stops."""
        self.patience = patience
        self.best_loss, self.waited = math.inf, 0

    def end_epoch(self, loss: float) -> bool:
        """Take the training loss of an epoch into account; tell whether it is the lowest so far."""
        improved = loss < self.best_loss
        self.best_loss, self.waited = (loss, 0) if improved else (self.best_loss, self.waited + 1)
        return improved

    @property
    def stops(self) -> bool:
        """Whether training has to end."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""
        return {"best_loss": self.best_loss, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self.best_loss, self.waited = state["best_loss"], state["waited"]
