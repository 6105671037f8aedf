from __future__ import annotations

import math

import pytest
import torch

from CovidSegTraining.losses import consistency_loss, partial_label_loss
from CovidSegTraining.product.label_codes import Code


def _codes(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 1, 1, len(values))


def _logits(*probabilities: tuple[float, ...]) -> torch.Tensor:
    return torch.log(torch.tensor(probabilities)).T.reshape(1, 4, 1, 1, len(probabilities))


def test_known_voxels_cost_cross_entropy_and_tversky_as_by_hand() -> None:
    loss = partial_label_loss(_logits((0.7, 0.1, 0.1, 0.1), (0.2, 0.5, 0.1, 0.2)), _codes(0, 1))
    cross_entropy = -(math.log(0.7) + math.log(0.5)) / 2
    # Per class (TP + 1) / (half the probability + half the truth + 1).
    tversky = 1.7 / (0.45 + 0.5 + 1) + 1.5 / (0.3 + 0.5 + 1) + 1 / (0.1 + 1) + 1 / (0.15 + 1)
    assert loss.item() == pytest.approx(cross_entropy + 4 - tversky, abs=1e-5)


def test_known_voxels_cost_what_monai_says() -> None:
    from monai.losses import TverskyLoss

    torch.manual_seed(0)
    logits, codes = torch.randn(2, 4, 3, 4, 5), torch.randint(0, 4, (2, 3, 4, 5), dtype=torch.uint8)
    tversky = TverskyLoss(
        softmax=True, to_onehot_y=True, alpha=0.5, beta=0.5, smooth_nr=1.0, smooth_dr=1.0, batch=True
    )(logits, codes[:, None].float())
    expected = torch.nn.functional.cross_entropy(logits, codes.long()) + 4 * tversky
    assert partial_label_loss(logits, codes).item() == pytest.approx(expected.item(), abs=1e-5)


def test_open_voxel_costs_minus_log_of_its_classes_probability() -> None:
    loss = partial_label_loss(_logits((0.4, 0.3, 0.2, 0.1)), _codes(Code.LEFT_OR_INFECTION))
    # Nothing is known for Tversky, whose four terms are then 1.
    assert loss.item() == pytest.approx(-math.log(0.3 + 0.1), abs=1e-5)


def test_open_voxel_does_not_say_which_of_its_classes() -> None:
    logits = _logits((0.4, 0.3, 0.2, 0.1)).requires_grad_()
    partial_label_loss(logits, _codes(Code.LEFT_OR_INFECTION)).backward()
    gradient = logits.grad.flatten()  # type: ignore[union-attr]
    assert gradient[1] < 0 and gradient[3] < 0 and gradient[0] > 0 and gradient[2] > 0
    # Both rise in proportion to what they have.
    assert (gradient[1] / gradient[3]).item() == pytest.approx(3.0, abs=1e-4)


def test_unknown_voxels_have_no_gradient_and_change_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 2, 3, 4, requires_grad=True)
    codes = torch.randint(0, 6, (1, 2, 3, 4), dtype=torch.uint8)
    codes[0, 1] = Code.UNKNOWN
    loss = partial_label_loss(logits, codes)
    loss.backward()
    assert not logits.grad[:, :, 1].any()  # type: ignore[index]
    assert logits.grad[:, :, 0].any()  # type: ignore[index]
    assert partial_label_loss(logits[:, :, :1], codes[:, :1]).item() == pytest.approx(loss.item(), abs=1e-5)


def test_nothing_known_costs_nothing_and_is_finite() -> None:
    logits = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    loss = partial_label_loss(logits, torch.full((1, 2, 2, 2), int(Code.UNKNOWN), dtype=torch.uint8))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_voxel_weights_scale_the_cross_entropy_of_their_voxel() -> None:
    logits, codes = _logits((0.7, 0.1, 0.1, 0.1), (0.2, 0.5, 0.1, 0.2)), _codes(0, 1)
    weights = torch.ones(codes.shape)
    weights[codes == 1] = 3.0
    difference = partial_label_loss(logits, codes, voxel_weights=weights) - partial_label_loss(logits, codes)
    # The mean stays one over the voxels by weight: (w1 l1 + w2 l2) / (w1 + w2).
    expected = -(math.log(0.7) + 3 * math.log(0.5)) / 4 + (math.log(0.7) + math.log(0.5)) / 2
    assert difference.item() == pytest.approx(expected, abs=1e-5)


def test_consistency_is_the_divergence_from_the_wanted_answer_where_voxels_count() -> None:
    wanted, answer = (0.7, 0.1, 0.1, 0.1), (0.4, 0.3, 0.2, 0.1)
    logits = _logits(answer, wanted, answer).requires_grad_()
    target = _logits(wanted, wanted, (0.1, 0.1, 0.1, 0.7)).requires_grad_()
    counted = torch.tensor([True, True, False]).reshape(1, 1, 1, 3)
    loss = consistency_loss(logits, target, counted=counted)
    by_hand = sum(w * math.log(w / a) for w, a in zip(wanted, answer, strict=True)) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-5)
    loss.backward()
    assert target.grad is None
    assert logits.grad is not None
    assert logits.grad[..., 0].abs().max() > 0
    assert logits.grad[..., 1:].abs().max() == pytest.approx(0.0, abs=1e-6)


def test_consistency_is_nothing_where_nothing_counts() -> None:
    logits = _logits((0.7, 0.1, 0.1, 0.1))
    assert consistency_loss(logits, -logits, counted=torch.zeros((1, 1, 1, 1), dtype=torch.bool)).item() == 0.0
