from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, TverskyLoss

from CovidSegTraining.experiment.config import Loss, read_experiment
from CovidSegTraining.experiment.loss import METRICS, UNKNOWN, batch_loss

PAPER = read_experiment().loss
DICE = Loss("dice_mean", 0.5, 0.5, 0.5, 0.5, 1e-6)


def _random(
    *, batch: int = 2, classes: int = 4, size: tuple[int, ...] = (3, 4, 5)
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((batch, classes, *size), generator=generator) * 2
    labels = torch.randint(0, classes, (batch, *size), generator=generator).to(torch.uint8)
    return logits, labels


def _two_voxels(labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits with class probabilities (0.8, 0.2) and (0.4, 0.6), and the labels of the two voxels."""
    probabilities = torch.tensor([[0.8, 0.4], [0.2, 0.6]])
    return probabilities.log().view(1, 2, 1, 1, 2), torch.tensor(labels, dtype=torch.uint8).view(1, 1, 1, 2)


def test_paper_loss_by_hand() -> None:
    # Class 0: TP 0.8, FN 0.2, FP 0.4; class 1: TP 0.6, FN 0.4, FP 0.2. Index TP / (TP + FN/2 + FP/2).
    tversky = 2 - 0.8 / 1.1 - 0.6 / 0.9
    cross_entropy = -(np.log(0.8) + np.log(0.6)) / 2
    found = batch_loss(*_two_voxels([0, 1]), settings=PAPER)
    assert found.loss.item() == pytest.approx(tversky + cross_entropy, abs=1e-5)
    dice = (1.6 / 2.2 + 1.2 / 1.8) / 2
    expected = [tversky + cross_entropy, tversky, dice, 1 - dice + cross_entropy]
    assert dict(zip(METRICS, found.metrics.tolist(), strict=True)) == pytest.approx(
        dict(zip(METRICS, expected, strict=True)), abs=1e-5
    )


def test_misses_and_false_alarms_weigh_as_they_are_told() -> None:
    settings = replace(PAPER, crossentropy_weight=0.0, false_negatives=0.7, false_positives=0.3)
    expected = 2 - 0.8 / (0.8 + 0.7 * 0.2 + 0.3 * 0.4) - 0.6 / (0.6 + 0.7 * 0.4 + 0.3 * 0.2)
    assert batch_loss(*_two_voxels([0, 1]), settings=settings).loss.item() == pytest.approx(expected, abs=1e-5)


def test_recorded_metrics_are_the_papers_whatever_the_loss() -> None:
    settings = replace(DICE, false_negatives=0.7, false_positives=0.3, smooth=0.1)
    # Class 0: TP 1.2, FN 0.8; class 1 has no voxel: FP 0.8, so that its Dice is the smoothing's, 1e-5 / (0.8 + 1e-5).
    metrics = dict(zip(METRICS, batch_loss(*_two_voxels([0, 0]), settings=settings).metrics.tolist(), strict=True))
    assert metrics["tversky_loss"] == pytest.approx(2 - 1.2 / 1.6, abs=1e-5)
    assert metrics["dice_soft"] == pytest.approx((2.4 / 3.2 + 1e-5 / 0.8) / 2, abs=1e-6)


def test_class_that_is_not_there_costs_almost_a_whole_class() -> None:
    # Class 1 has no voxel: TP 0, FP 0.8.
    found = batch_loss(*_two_voxels([0, 0]), settings=replace(PAPER, crossentropy_weight=0.0))
    assert found.loss.item() == pytest.approx(2 - 1.2 / (1.2 + 0.4) - 1e-6 / 0.4, abs=1e-5)


def test_tversky_is_monais_summed_over_classes_and_averaged_over_samples() -> None:
    logits, labels = _random()
    monai = TverskyLoss(
        softmax=True, to_onehot_y=True, alpha=0.5, beta=0.5, smooth_nr=1e-6, smooth_dr=1e-6, reduction="none"
    )(logits, labels.unsqueeze(1))
    found = batch_loss(logits, labels, settings=replace(PAPER, crossentropy_weight=0.0))
    torch.testing.assert_close(found.loss, monai.reshape(2, 4).sum(dim=1).mean())


def test_half_dice_and_half_cross_entropy_are_monais() -> None:
    logits, labels = _random()
    monai = DiceCELoss(softmax=True, to_onehot_y=True, lambda_dice=0.5, lambda_ce=0.5, smooth_nr=2e-6, smooth_dr=2e-6)(
        logits, labels.unsqueeze(1)
    )
    torch.testing.assert_close(batch_loss(logits, labels, settings=DICE).loss, monai)


@pytest.mark.parametrize("settings", [PAPER, DICE])
def test_unknown_voxels_count_as_if_they_were_not_there(settings: Loss) -> None:
    logits, labels = _random()
    labels[..., 3:] = UNKNOWN
    logits.requires_grad_()
    whole = batch_loss(logits, labels, settings=settings)
    part = batch_loss(logits.detach()[..., :3], labels[..., :3], settings=settings)
    torch.testing.assert_close(whole.loss, part.loss)
    torch.testing.assert_close(whole.metrics, part.metrics)
    whole.loss.backward()
    assert logits.grad is not None
    assert not logits.grad[..., 3:].any() and logits.grad[..., :3].any()


def test_batch_without_any_label_costs_nothing() -> None:
    logits, labels = _random()
    found = batch_loss(logits.requires_grad_(), torch.full_like(labels, UNKNOWN), settings=PAPER)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None and not logits.grad.any()


def test_right_and_sure_costs_nothing_and_wrong_and_sure_the_most() -> None:
    labels = torch.arange(4, dtype=torch.uint8).view(1, 1, 1, 4)
    logits = 30.0 * torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1).float()
    right = batch_loss(logits, labels, settings=PAPER)
    assert right.loss.item() == pytest.approx(0.0, abs=1e-4) and right.metrics[2].item() == pytest.approx(1.0)
    wrong = batch_loss(logits.roll(1, dims=1), labels, settings=PAPER)
    assert wrong.metrics[1].item() == pytest.approx(4.0, abs=1e-4)


def test_half_precision_is_summed_up_in_single() -> None:
    logits, labels = _random(size=(16, 32, 32))
    exact = batch_loss(logits, labels, settings=PAPER).loss
    torch.testing.assert_close(batch_loss(logits.bfloat16(), labels, settings=PAPER).loss, exact, rtol=2e-3, atol=0)
