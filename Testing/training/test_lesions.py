from __future__ import annotations

import numpy as np
import torch

from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.lesions import LesionRecipe, paint_lesions

SPACING = (2.7, 1.58, 1.58)
ALWAYS = LesionRecipe(probability=1.0, radius_mm=(8.0, 15.0))


def _patch() -> tuple[torch.Tensor, torch.Tensor]:
    hu, codes = torch.full((16, 40, 40), 40.0), torch.zeros(16, 40, 40, dtype=torch.uint8)
    hu[:, 10:30, 10:30] = -850.0
    codes[:, 10:30, 10:30] = int(Code.LEFT_LUNG)
    return hu, codes


def _painted(recipe: LesionRecipe, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return paint_lesions(*_patch(), spacing_kji_mm=SPACING, recipe=recipe, rng=np.random.default_rng(seed))


def test_lesions_lie_in_healthy_lung_only_and_are_denser_than_it() -> None:
    hu, codes = _patch()
    for seed in range(10):
        painted_hu, painted = _painted(ALWAYS, seed)
        infected = painted == Code.INFECTION
        assert infected.any()
        assert (codes[infected] == Code.LEFT_LUNG).all()
        assert torch.equal(painted[~infected], codes[~infected])
        assert torch.equal(painted_hu[codes == 0], hu[codes == 0])
        assert painted_hu[infected].mean() > -850 + 100


def test_consolidation_is_as_dense_as_tissue() -> None:
    hu, codes = _painted(LesionRecipe(probability=1.0, radius_mm=(10.0, 15.0), most=1, dense_share=1.0), 0)
    assert hu[codes == Code.INFECTION].median() > -300


def test_patch_without_lung_or_luck_is_left_alone() -> None:
    hu, codes = _patch()
    nothing = torch.zeros_like(codes)
    painted = paint_lesions(hu, nothing, spacing_kji_mm=SPACING, recipe=ALWAYS, rng=np.random.default_rng(0))
    assert painted[0] is hu and painted[1] is nothing
    assert not (_painted(LesionRecipe(probability=0.0), 0)[1] == Code.INFECTION).any()


def test_input_is_not_modified_and_the_seed_decides() -> None:
    hu, codes = _patch()
    before = hu.clone(), codes.clone()
    results = [
        paint_lesions(hu, codes, spacing_kji_mm=SPACING, recipe=ALWAYS, rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(hu, before[0]) and torch.equal(codes, before[1])
    assert torch.equal(results[0][0], results[1][0]) and not torch.equal(results[0][0], results[2][0])
