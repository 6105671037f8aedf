from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from CovidSegLib.errors import InputError
from CovidSegLib.preprocess import PreprocessingRecipe, scale_hu
from helpers_training import NEUTRAL, ball_case, write_ball_cache

from CovidSegTraining.augmentation import AugmentationRecipe
from CovidSegTraining.cache import preparation_of, read_case, write_case
from CovidSegTraining.product.fit_config import FitConfig, Stage
from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.lesions import LesionRecipe
from CovidSegTraining.product.patches import PatchSampler, TrainingCase, load_cases

STAGE = Stage(1.0, (16, 32, 32), 2)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_ball_cache(tmp_path / "cache")


def _patches(cache: Path, recipe: AugmentationRecipe, *, seed: int = 0, exchange_share: float = 0.0) -> PatchSampler:
    config = FitConfig(augmentation=recipe, lesions=LesionRecipe(probability=0.0), exchange_share=exchange_share)
    return PatchSampler(load_cases(cache), config=config, rng=np.random.default_rng(seed))


def test_batch_without_changes_is_the_case_itself_in_the_networks_range(cache: Path) -> None:
    batch = _patches(cache, NEUTRAL).batch(STAGE)
    assert batch.image.shape == (2, 1, *STAGE.patch_kji)
    assert batch.codes.shape == batch.shown.shape == (2, *STAGE.patch_kji)
    assert batch.image.abs().max() <= 1.0
    assert torch.equal(batch.image, batch.other)
    assert batch.shown.all()


def test_values_of_the_networks_range_by_hand() -> None:
    hu = np.zeros((16, 16, 32), dtype=np.int16)
    hu[0, 0, :4] = (-3000, -1250, -500, 3000)
    case = TrainingCase("a", hu, np.zeros(hu.shape, dtype=np.uint8), 1.0)
    config = FitConfig(
        augmentation=NEUTRAL,
        lesions=LesionRecipe(probability=0.0),
        preprocessing=PreprocessingRecipe(window_hu=(-1250.0, 250.0)),
    )
    image = PatchSampler([case], config=config, rng=np.random.default_rng(0))._network_input(
        [torch.from_numpy(hu).float()]
    )
    assert image[0, 0, 0, 0, :5].tolist() == pytest.approx([-1.0, -1.0, 0.0, 1.0, 2 / 3])


def test_patch_has_the_very_values_that_the_product_gives_its_network() -> None:
    hu = np.random.default_rng(0).uniform(-2000, 1000, (16, 16, 32)).astype(np.float32)
    case = TrainingCase("a", hu.astype(np.int16), np.zeros(hu.shape, dtype=np.uint8), 1.0)
    config = FitConfig(preprocessing=PreprocessingRecipe(window_hu=(-1111.0, 333.0)))
    given = torch.from_numpy(hu.copy())
    image = PatchSampler([case], config=config, rng=np.random.default_rng(0))._network_input([given])
    assert np.array_equal(image[0, 0].numpy(), scale_hu(hu, window_hu=(-1111.0, 333.0)))
    assert np.array_equal(given.numpy(), hu)


def test_case_that_teaches_nothing_is_named(cache: Path) -> None:
    codes = np.full((16, 16, 32), Code.UNKNOWN, dtype=np.uint8)
    codes[3] = Code.NOT_INFECTION
    open_case = replace(ball_case(seed=0, shape_kji=codes.shape), codes_kji=codes)
    write_case(cache / "open.npz", open_case)
    with pytest.raises(InputError, match=r"open\.npz: no voxel is known to be lung or background, .* delete this file"):
        load_cases(cache)
    codes[8, 8, 8] = Code.BACKGROUND
    write_case(cache / "open.npz", open_case)
    config = FitConfig(augmentation=NEUTRAL)
    PatchSampler(load_cases(cache)[2:], config=config, rng=np.random.default_rng(0)).batch(STAGE)


def test_cases_of_which_none_would_be_drawn_are_refused(cache: Path) -> None:
    for path in sorted(cache.iterdir()):
        assert load_cases(cache)  # one with a weight is enough
        write_case(path, replace(read_case(path), weight=0.0))
    with pytest.raises(InputError, match=r"cache: all cases have weight 0, .* under 'data' of the settings"):
        load_cases(cache)


def test_cases_are_drawn_by_their_weight() -> None:
    shape = (16, 16, 32)
    cases = [
        TrainingCase(str(hu), np.full(shape, hu, np.int16), np.zeros(shape, np.uint8), weight)
        for hu, weight in ((-1000, 3.0), (0, 1.0), (100, 0.0))
    ]
    config = FitConfig(augmentation=NEUTRAL, lesions=LesionRecipe(probability=0.0))
    patches = PatchSampler(cases, config=config, rng=np.random.default_rng(0))
    middles = patches.batch(Stage(1.0, shape, 200)).image[:, 0, 8, 8, 16]
    lower, upper = config.preprocessing.window_hu
    hu = (middles * (upper - lower) / 2 + (lower + upper) / 2).numpy()
    often, seldom, never = ((np.abs(hu - value) < 5).sum() for value in (-1000, 0, 100))  # others lie outside
    assert often / (often + seldom) == pytest.approx(0.75, abs=0.1) and never == 0


def test_spacing_is_told_in_the_order_of_the_arrays_axes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, ...]] = []

    def record(hu: torch.Tensor, codes: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        told.append(arguments["spacing_kji_mm"])
        return hu, codes

    monkeypatch.setattr("CovidSegTraining.product.patches.sample_patch", record)
    monkeypatch.setattr("CovidSegTraining.product.patches.paint_lesions", record)
    config = FitConfig(preprocessing=PreprocessingRecipe(spacing_ijk_mm=(1.0, 2.0, 3.0)))
    PatchSampler(load_cases(cache), config=config, rng=np.random.default_rng(0))._patch(STAGE)
    assert told == [(3.0, 2.0, 1.0)] * 2


def test_case_prepared_otherwise_is_refused_but_for_the_networks_kernel(tmp_path: Path) -> None:
    recipe = PreprocessingRecipe()
    write_case(tmp_path / "a.npz", replace(ball_case(seed=0), preprocessing=preparation_of(recipe)))
    assert len(load_cases(tmp_path, preprocessing=replace(recipe, kernel_voxels=1.6))) == 1
    with pytest.raises(InputError, match=r"a\.npz: prepared with other settings"):
        load_cases(tmp_path, preprocessing=replace(recipe, outside_hu=-1.0))


def test_cases_that_do_not_tell_how_they_were_prepared_are_taken(cache: Path, tmp_path: Path) -> None:
    assert [case.name for case in load_cases(cache, preprocessing=PreprocessingRecipe())] == ["ball_0", "ball_1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no prepared cases in .*empty: run 'covidseg-train prepare' first"):
        load_cases(tmp_path / "empty")


def test_case_prepared_in_any_way_is_taken_where_none_is_asked_for(tmp_path: Path) -> None:
    write_case(tmp_path / "a.npz", replace(ball_case(seed=0), preprocessing='{"another": 1}'))
    assert [case.name for case in load_cases(tmp_path)] == ["a"]


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


def test_states_are_exchanged_as_often_as_asked(cache: Path) -> None:
    stage = Stage(1.0, (16, 16, 16), 60)
    noisy = _patches(cache, replace(NEUTRAL, noise_probability=1.0), exchange_share=0.25).batch(stage)
    # Noise makes neighbours differ more; which of the two has it tells whether they were exchanged.
    roughness = [image.diff(dim=-1).square().mean(dim=(1, 2, 3, 4)) for image in (noisy.image, noisy.other)]
    assert (roughness[0] < roughness[1]).float().mean() == pytest.approx(0.25, abs=0.12)


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
