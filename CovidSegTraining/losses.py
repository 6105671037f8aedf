"""Loss for partly known labels: cross-entropy over what is possible, and Tversky over what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .product.label_codes import Code, possible_classes

if TYPE_CHECKING:
    import torch

CLASSES = 4


def partial_label_loss(
    logits: torch.Tensor, codes: torch.Tensor, *, voxel_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return Tversky + cross-entropy (METHOD section 6, weight 1 each), extended to partly known labels.

    Where the class is known this is the paper's loss, except that the Tversky index is taken over the whole batch and
    not per sample: otherwise a patch without infection would be charged a whole class. Where only a set of possible
    classes is known, the cross-entropy is minus the logarithm of the probability of that set; where nothing is known,
    the voxel does not count.

    Args:
        logits: (batch, 4, k, j, i) float.
        codes: (batch, k, j, i) uint8 of `Code`.
        voxel_weights: (batch, k, j, i) weight of each voxel in the cross-entropy; default 1.

    Returns:
        Scalar tensor.
    """
    import torch

    possible = torch.from_numpy(possible_classes()).to(logits.device)
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    allowed = possible[codes.long()].movedim(-1, 1)  # (batch, 4, k, j, i)
    voxel_loss = -torch.logsumexp(log_probabilities.masked_fill(~allowed, -1e4), dim=1)
    counted = (codes != int(Code.UNKNOWN)).float()
    if voxel_weights is not None:
        counted = counted * voxel_weights
    cross_entropy = (voxel_loss * counted).sum() / counted.sum().clamp(min=1.0)

    known = (codes < CLASSES).unsqueeze(1)
    probabilities = log_probabilities.exp() * known
    truth = (allowed & known).float()
    axes = (0, 2, 3, 4)
    true_positive = (probabilities * truth).sum(axes)
    # With a = b = 0.5 false negatives and false positives weigh the same: this is the soft Dice.
    tversky = (true_positive + 1.0) / (0.5 * probabilities.sum(axes) + 0.5 * truth.sum(axes) + 1.0)
    return cross_entropy + CLASSES - tversky.sum()


def consistency_loss(logits: torch.Tensor, wanted: torch.Tensor, *, counted: torch.Tensor) -> torch.Tensor:
    """Return the mean Kullback-Leibler divergence of an answer from a wanted one, which gets no gradient.

    Args:
        logits: (batch, 4, k, j, i) float.
        wanted: (batch, 4, k, j, i) float, logits too.
        counted: (batch, k, j, i) bool, the voxels that count.

    Returns:
        Scalar tensor, 0 where nothing counts.
    """
    import torch

    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    log_wanted = torch.log_softmax(wanted.detach().float(), dim=1)
    divergence = (log_wanted.exp() * (log_wanted - log_probabilities)).sum(dim=1)
    return (divergence * counted).sum() / counted.sum().clamp(min=1)
