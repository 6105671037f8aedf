"""When the learning rate falls and when training ends, decided by each epoch's loss as Keras's callbacks do."""

from __future__ import annotations

import math
from typing import Any

from .config import Adam, Plateau


class LearningRate:
    """The learning rate of every batch.

    With patience and cooldown one smaller, torch's ReduceLROnPlateau decides as Keras's: torch reduces the rate when
    the number of bad epochs exceeds the patience, Keras when it reaches it; and in Keras the last epoch of a cooldown
    counts already.
    """

    def __init__(self, adam: Adam, *, plateau: Plateau | None) -> None:
        """Start at the optimiser's learning rate.

        Args:
            adam: Learning rate, and its decay per batch.
            plateau: When to reduce it; None: it does not depend on the loss.
        """
        import torch

        self._decay = adam.decay
        # torch's scheduler needs an optimiser to act on; this one does nothing but hold the rate.
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
    """Keeps the lowest training loss so far, and the number of epochs since."""

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
