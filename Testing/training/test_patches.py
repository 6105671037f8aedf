from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_training import NEUTRAL, write_ball_cache

from CovidSegTraining.augmentation import AugmentationRecipe
from CovidSegTraining.fit_config import FitConfig, Stage
from CovidSegTraining.label_codes import Code
from CovidSegTraining.lesions import LesionRecipe
from CovidSegTraining.patches import Patches, load_cases

STAGE = Stage(1.0, (16, 32, 32), 2)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_ball_cache(tmp_path / "cache")


def _patches(cache: Path, recipe: AugmentationRecipe, *, seed: int = 0, exchange_share: float = 0.0) -> Patches:
    config = FitConfig(augmentation=recipe, lesions=LesionRecipe(probability=0.0), exchange_share=exchange_share)
    return Patches(load_cases(cache), config=config, rng=np.random.default_rng(seed))


def test_batch_without_changes_is_the_case_itself_in_the_networks_range(cache: Path) -> None:
    batch = _patches(cache, NEUTRAL).batch(STAGE)
    assert batch.image.shape == (2, 1, *STAGE.patch_kji)
    assert batch.codes.shape == batch.shown.shape == (2, *STAGE.patch_kji)
    assert batch.image.abs().max() <= 1.0
    assert torch.equal(batch.image, batch.other)
    assert batch.shown.all()


def test_same_seed_draws_the_same_batches_and_another_draws_others(cache: Path) -> None:
    first, again, other = (_patches(cache, AugmentationRecipe(), seed=s).batch(STAGE).image for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("exchanged", [False, True])
def test_noise_is_in_one_of_the_two_states(cache: Path, *, exchanged: bool) -> None:
    stage = Stage(1.0, (16, 32, 32), 1)
    still = _patches(cache, NEUTRAL).batch(stage)
    noise = replace(NEUTRAL, noise_probability=1.0)
    noisy = _patches(cache, noise, exchange_share=1.0 if exchanged else 0.0).batch(stage)
    clean, degraded = (noisy.image, noisy.other) if exchanged else (noisy.other, noisy.image)
    assert torch.equal(clean, still.image)
    assert not torch.equal(degraded, still.image)


def test_exchanged_patches_keep_the_codes_of_the_whole_field_of_view(cache: Path) -> None:
    cropped = _patches(cache, replace(NEUTRAL, crop_probability=1.0), exchange_share=1.0).batch(STAGE)
    whole = _patches(cache, NEUTRAL).batch(Stage(STAGE.until, STAGE.patch_kji, 1))
    assert torch.equal(cropped.codes[0], whole.codes[0])
    assert not cropped.shown.all()


def test_what_a_cropped_field_of_view_hides_of_the_lungs_is_not_shown(cache: Path) -> None:
    batch = _patches(cache, replace(NEUTRAL, crop_probability=1.0)).batch(Stage(1.0, (16, 32, 32), 8))
    outside = FitConfig().preprocessing.outside_hu
    hidden = ~batch.shown
    assert hidden.any()
    assert (batch.codes[hidden] == Code.BACKGROUND).all()
    lower, upper = FitConfig().preprocessing.window_hu
    assert batch.image[:, 0][hidden].unique().tolist() == pytest.approx(
        [(outside - (lower + upper) / 2) / ((upper - lower) / 2)]
    )
