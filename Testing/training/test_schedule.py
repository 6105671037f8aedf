from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from CovidSegTraining.experiment.config import Plateau, read_experiment
from CovidSegTraining.experiment.schedule import EarlyStopping, LearningRate

ADAM, TRAINING = read_experiment().optimizer, read_experiment().training
assert TRAINING.plateau is not None
PAPER: Plateau = TRAINING.plateau


def _rates(losses: list[float], plateau: Plateau | None = PAPER) -> list[float]:
    """Return the rate each epoch is trained with, and that of the one after."""
    rate = LearningRate(ADAM, plateau=plateau)
    rates = [rate.at(0)]
    for loss in losses:
        rate.end_epoch(loss)
        rates.append(rate.at(0))
    return rates


def _rates_of_keras(losses: list[float], plateau: Plateau) -> list[float]:
    """The rule of Keras's callback, step by step."""
    rate, best, wait, cooling = ADAM.learning_rate, math.inf, 0, 0
    rates = [rate]
    for loss in losses:
        if cooling > 0:
            cooling, wait = cooling - 1, 0
        if loss < best - plateau.min_delta:
            best, wait = loss, 0
        elif cooling <= 0:
            wait += 1
            if wait >= plateau.patience and rate > plateau.minimum:
                rate, cooling, wait = max(rate * plateau.factor, plateau.minimum), plateau.cooldown, 0
        rates.append(rate)
    return rates


def test_rate_falls_after_fifteen_epochs_without_gain_down_to_the_minimum() -> None:
    rates = _rates([1.0] * 61)
    # Epoch 1 sets the best loss; 2 to 16 bring nothing; then 15 more each.
    falls = [n for n in range(1, len(rates)) if rates[n] < rates[n - 1]]
    assert falls == [16, 31]
    assert rates[16] == pytest.approx(1e-4) and rates[-1] == pytest.approx(1e-5)


def test_gain_below_the_least_counts_as_none() -> None:
    assert _rates([1.0 - 0.5e-5 * n for n in range(17)])[-1] == pytest.approx(1e-4)
    assert _rates([1.0 - 1.1e-4 * n for n in range(100)])[-1] == ADAM.learning_rate


def test_least_gain_is_a_difference_and_no_share() -> None:
    assert _rates([9.0 - 2e-4 * n for n in range(17)])[-1] == ADAM.learning_rate
    assert _rates([0.1 - 0.5e-4 / 16 * n for n in range(17)])[-1] == pytest.approx(1e-4)


def test_without_plateau_the_rate_stays_but_for_its_decay() -> None:
    assert set(_rates([1.0] * 50, plateau=None)) == {ADAM.learning_rate}
    rate = LearningRate(replace(ADAM, decay=1e-2), plateau=None)
    assert [rate.at(n) for n in (0, 100, 300)] == pytest.approx([1e-3, 5e-4, 2.5e-4])


@given(
    losses=st.lists(st.sampled_from([1.0, 0.99995, 0.9, 0.8, 0.7]), max_size=60),
    patience=st.integers(1, 6),
    cooldown=st.integers(0, 4),
)
def test_rates_are_those_of_keras(losses: list[float], patience: int, cooldown: int) -> None:
    plateau = replace(PAPER, patience=patience, cooldown=cooldown)
    assert _rates(losses, plateau) == pytest.approx(_rates_of_keras(losses, plateau))


@pytest.mark.realdata
@pytest.mark.parametrize("fold", range(5))
def test_rates_and_ends_of_the_papers_own_histories(data_dir: Path, fold: int) -> None:
    with (data_dir / "muller20" / "paper" / f"history.fold_{fold}.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    # Two of the five folds were run with less patience than the paper states; their histories tell.
    patience, stopping = (10, 75) if fold in (1, 2) else (15, 100)
    losses = [float(row["loss"]) for row in rows]
    rates = _rates(losses, replace(PAPER, patience=patience))[: len(rows)]
    assert rates == pytest.approx([float(row["lr"]) for row in rows], rel=1e-3)
    early = EarlyStopping(patience=stopping)
    stopped = [early.stops for loss in losses if early.end_epoch(loss) or True]
    assert stopped == [False] * (len(rows) - 1) + [True]


def test_training_ends_when_the_best_loss_is_old_enough() -> None:
    stopping = EarlyStopping(patience=3)
    improved = []
    for loss in (1.0, 0.5, 0.6, 0.5, 0.4, 0.41, 0.42):
        improved.append(stopping.end_epoch(loss))
        assert not stopping.stops
    assert improved == [True, True, False, False, True, False, False] and stopping.best_loss == 0.4
    stopping.end_epoch(0.4)
    assert stopping.stops


def test_without_patience_training_never_ends_early() -> None:
    stopping = EarlyStopping(patience=None)
    for _ in range(1000):
        stopping.end_epoch(1.0)
    assert not stopping.stops


def test_state_goes_on_where_it_stood() -> None:
    losses = [1.0, 0.9, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    plateau = replace(PAPER, patience=3, cooldown=2)
    whole = _rates(losses, plateau)
    for cut in range(len(losses)):
        first, second = LearningRate(ADAM, plateau=plateau), LearningRate(ADAM, plateau=plateau)
        stop_first, stop_second = EarlyStopping(patience=5), EarlyStopping(patience=5)
        for loss in losses[:cut]:
            first.end_epoch(loss)
            stop_first.end_epoch(loss)
        second.load_state_dict(first.state_dict())
        stop_second.load_state_dict(stop_first.state_dict())
        for loss in losses[cut:]:
            second.end_epoch(loss)
            stop_second.end_epoch(loss)
        assert second.at(0) == whole[-1]
        assert (stop_second.best_loss, stop_second.waited, stop_second.stops) == (0.7, 5, True)
