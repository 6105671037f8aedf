"""The losses of the experiment, and the metrics that its history records; voxels without a label do not count.

Sources: paper, section "Model fitting" (Tversky index plus cross-entropy); COVID-SegNet (0.5 Dice + 0.5
cross-entropy). All sums are taken in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import Loss

if TYPE_CHECKING:
    import torch

#: Label code of voxels of which nothing is known.
UNKNOWN = 255
#: Smoothing term of the recorded soft Dice, as in the paper's code.
DICE_SMOOTH = 1e-5
#: The loss and the recorded metrics, named and ordered as in the paper's histories.
METRICS = ("loss", "tversky_loss", "dice_soft", "dice_crossentropy")


@dataclass(frozen=True)
class BatchLoss:
    """Loss and metrics of a batch.

    Attributes:
        loss: Scalar with gradient.
        metrics: (4,) float32 without gradient, in the order of `METRICS`.
    """

    loss: torch.Tensor
    metrics: torch.Tensor


def batch_loss(logits: torch.Tensor, labels: torch.Tensor, *, settings: Loss) -> BatchLoss:
    """Return loss and metrics of a batch.

    The Tversky index of a class in a sample is (TP + s) / (TP + a FN + b FP + s) over the voxels with a label.
    "tversky_sum" is the number of classes minus the sum of the indices, averaged over the samples; "dice_mean" is one
    minus the mean of the indices. As s is tiny, a class that is absent from the truth costs almost as much as a full
    miss, however little of it is predicted; the paper has it so.

    Args:
        logits: (batch, classes, k, j, i), any float type.
        labels: (batch, k, j, i) uint8, 0 to classes - 1, or `UNKNOWN`.
        settings: Weights, and the kind of overlap loss.
    """
    import torch

    classes = logits.shape[1]
    known = labels != UNKNOWN
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    truth_index = torch.where(known, labels, 0).long().unsqueeze(1)
    voxel_loss = -log_probabilities.gather(1, truth_index).squeeze(1)
    # Averaged over the voxels of the batch, not sample by sample.
    cross_entropy = (voxel_loss * known).sum() / known.sum().clamp(min=1)

    probabilities = log_probabilities.exp() * known.unsqueeze(1)
    truth = torch.zeros_like(probabilities).scatter_(1, truth_index, 1.0) * known.unsqueeze(1)
    axes = (2, 3, 4)
    true_positive = (probabilities * truth).sum(axes)
    false_negative, false_positive = truth.sum(axes) - true_positive, probabilities.sum(axes) - true_positive

    def index(*, a: float, b: float, smooth: float) -> torch.Tensor:
        return (true_positive + smooth) / (true_positive + a * false_negative + b * false_positive + smooth)

    overlap = (
        classes - index(a=settings.false_negatives, b=settings.false_positives, smooth=settings.smooth).sum(1).mean()
    )
    if settings.overlap == "dice_mean":
        overlap = overlap / classes
    loss = settings.overlap_weight * overlap + settings.crossentropy_weight * cross_entropy

    with torch.no_grad():
        tversky = classes - index(a=0.5, b=0.5, smooth=1e-6).sum(1).mean()
        # (2 TP + s) / (2 TP + FN + FP + s) is the index with a = b = 0.5 and half the smoothing.
        dice = index(a=0.5, b=0.5, smooth=DICE_SMOOTH / 2).mean()
        metrics = torch.stack([loss.detach(), tversky, dice, 1.0 - dice + cross_entropy])
    return BatchLoss(loss, metrics)
