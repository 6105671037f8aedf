from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_training import NEUTRAL

from CovidSegTraining.augmentation import AugmentationRecipe, _random_matrix, _thick_slices, degrade, sample_patch
from CovidSegTraining.product.label_codes import Code

SPACING = (2.7, 1.58, 1.58)


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    """Return random HU, and codes whose left half (high i) is left lung, the other right lung."""
    rng = np.random.default_rng(0)
    hu = torch.from_numpy(rng.normal(-400, 300, (24, 40, 48)).astype(np.float32))
    codes = torch.full((24, 40, 48), int(Code.RIGHT_LUNG), dtype=torch.uint8)
    codes[:, :, 24:] = int(Code.LEFT_LUNG)
    codes[:, :4] = int(Code.LEFT_OR_INFECTION)
    return hu, codes


def _sample(
    recipe: AugmentationRecipe, *, seed: int, center: tuple[float, ...], size: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    hu, codes = _case()
    return sample_patch(
        hu,
        codes,
        center_kji=np.asarray(center),
        patch_kji=size,
        spacing_kji_mm=SPACING,
        recipe=recipe,
        outside_hu=40.0,
        rng=np.random.default_rng(seed),
    )


@pytest.mark.parametrize("seed", range(4))
def test_neutral_patch_is_the_crop_around_its_centre(seed: int) -> None:
    hu, codes = _case()
    image, labels = _sample(NEUTRAL, seed=seed, center=(11.5, 19.5, 23.5), size=(8, 16, 16))
    torch.testing.assert_close(image, hu[8:16, 12:28, 16:32], atol=0.1, rtol=0)
    assert torch.equal(labels, codes[8:16, 12:28, 16:32])


def test_beyond_the_case_is_outside_and_unknown() -> None:
    image, labels = _sample(NEUTRAL, seed=0, center=(0.0, 19.5, 23.5), size=(9, 8, 8))
    # The centre is voxel 0: four slices of nine lie outside.
    assert (image[:4] - 40.0).abs().max() < 0.01 and (labels[:4] == Code.UNKNOWN).all()
    assert not (labels[4:] == Code.UNKNOWN).any()


def test_deformed_patches_have_the_size_wanted_and_codes_that_exist() -> None:
    recipe = replace(AugmentationRecipe(), elastic_probability=1.0)
    for seed in range(6):
        image, labels = _sample(recipe, seed=seed, center=(12, 20, 24), size=(16, 24, 32))
        assert image.shape == labels.shape == (16, 24, 32)
        assert image.dtype == torch.float32 and labels.dtype == torch.uint8
        assert set(labels.unique().tolist()) <= {
            Code.LEFT_LUNG,
            Code.RIGHT_LUNG,
            Code.LEFT_OR_INFECTION,
            Code.UNKNOWN,
        }


def test_left_stays_left() -> None:
    for seed in range(20):
        _, labels = _sample(AugmentationRecipe(), seed=seed, center=(12, 20, 24), size=(16, 24, 32))
        left, right = (torch.nonzero(labels == code)[:, 2].float().mean() for code in (1, 2))
        assert left > right


def test_mirrored_patch_is_that_of_the_mirrored_case_with_sides_exchanged() -> None:
    recipe = replace(NEUTRAL, mirror_probability=1.0)
    hu, _codes = _case()
    image, labels = _sample(recipe, seed=0, center=(11.5, 19.5, 23.5), size=(8, 16, 16))
    torch.testing.assert_close(image, hu[8:16, 12:28, 16:32].flip(2), atol=0.1, rtol=0)
    assert (labels[:, :, 8:] == Code.LEFT_LUNG).all() and (labels[:, :, :8] == Code.RIGHT_LUNG).all()
    # Voxels that may be infected still may.
    _, labels = _sample(recipe, seed=0, center=(11.5, 3.5, 23.5), size=(8, 8, 16))
    assert (labels[:, :4] == Code.RIGHT_OR_INFECTION).all()


def test_mirrored_left_stays_left() -> None:
    recipe = replace(AugmentationRecipe(), mirror_probability=1.0)
    for seed in range(20):
        _, labels = _sample(recipe, seed=seed, center=(12, 20, 24), size=(16, 24, 32))
        left, right = (torch.nonzero(labels == code)[:, 2].float().mean() for code in (1, 2))
        assert left > right


def test_half_of_the_patches_are_mirrored_if_asked_for() -> None:
    recipe = replace(NEUTRAL, mirror_probability=0.5)
    plain, _ = _sample(NEUTRAL, seed=0, center=(11.5, 19.5, 23.5), size=(8, 16, 16))
    kept = [
        torch.equal(_sample(recipe, seed=seed, center=(11.5, 19.5, 23.5), size=(8, 16, 16))[0], plain)
        for seed in range(200)
    ]
    assert 70 < sum(kept) < 130


def test_scale_samples_further_apart() -> None:
    recipe = replace(NEUTRAL, scale=(1.5, 1.5))
    hu = torch.arange(48, dtype=torch.float32).expand(24, 40, 48).contiguous()
    image, _ = sample_patch(
        hu,
        torch.zeros(24, 40, 48, dtype=torch.uint8),
        center_kji=np.array([12.0, 20.0, 24.0]),
        patch_kji=(3, 3, 9),
        spacing_kji_mm=SPACING,
        recipe=replace(recipe, spatial_probability=1.0),
        outside_hu=0.0,
        rng=np.random.default_rng(0),
    )
    np.testing.assert_allclose(image[1, 1].numpy(), 24 + 1.5 * np.arange(-4, 5), atol=1e-3)


def test_rotation_is_rigid_and_within_its_angle() -> None:
    recipe = replace(AugmentationRecipe(), scale=(1.0, 1.0), anisotropy=0.0)
    turns = [_random_matrix(recipe, np.random.default_rng(seed)) for seed in range(20)]
    for turn in turns:
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1.0)
    # 12 degrees about each of three axes, one after the other.
    degrees = [np.rad2deg(np.arccos((np.trace(turn) - 1.0) / 2.0)) for turn in turns]
    assert 5.0 < max(degrees) < 3 * 12.0


def test_noise_has_no_mean_and_at_most_its_strength() -> None:
    recipe = replace(NEUTRAL, noise_probability=1.0, noise_hu=90.0)
    still = torch.full((20, 40, 40), -500.0)
    codes = torch.zeros((20, 40, 40), dtype=torch.uint8)
    strengths = []
    for seed in range(12):
        image, _ = degrade(still, codes, recipe=recipe, outside_hu=40.0, rng=np.random.default_rng(seed))
        assert image.mean().item() == pytest.approx(-500.0, abs=5.0)
        strengths.append(image.std().item())
    assert min(strengths) > 0.0 and 60.0 < max(strengths) < 1.1 * 90.0


def test_gain_is_about_air_and_the_offset_within_its_range() -> None:
    recipe = replace(NEUTRAL, intensity_probability=1.0, gain=(0.5, 0.5), offset_hu=10.0)
    hu = torch.tensor([-1000.0, 0.0, 1000.0])[None, None]
    codes = torch.zeros(hu.shape, dtype=torch.uint8)
    image, _ = degrade(hu, codes, recipe=recipe, outside_hu=40.0, rng=np.random.default_rng(0))
    offset = image[0, 0, 0].item() + 1000.0
    assert 0.0 < abs(offset) <= 10.0
    assert image.flatten().tolist() == pytest.approx([-1000 + offset, -500 + offset, offset], abs=1e-3)


def test_the_same_seed_gives_the_same_patch_and_degradation() -> None:
    results = []
    for seed in (5, 5, 6):
        rng = np.random.default_rng(seed)
        image, labels = _sample(AugmentationRecipe(), seed=seed, center=(12, 20, 24), size=(16, 16, 16))
        results.append(degrade(image, labels, recipe=AugmentationRecipe(), outside_hu=40.0, rng=rng)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_neutral_degradation_is_none() -> None:
    hu, codes = _case()
    image, labels = degrade(hu, codes, recipe=NEUTRAL, outside_hu=40.0, rng=np.random.default_rng(0))
    assert torch.equal(image, hu) and torch.equal(labels, codes)


def test_inflated_lung_is_darker_and_nothing_else_changes() -> None:
    recipe = replace(NEUTRAL, inflation_probability=1.0, inflation=(0.5, 0.5))
    codes = torch.tensor([Code.LEFT_LUNG, Code.RIGHT_OR_INFECTION, Code.LEFT_LUNG, Code.BACKGROUND, Code.INFECTION])
    hu = torch.tensor([-800.0, -860.0, -100.0, -990.0, -850.0])
    codes, hu = codes.to(torch.uint8)[None, None], hu[None, None]
    inflated, unchanged = degrade(hu, codes, recipe=recipe, outside_hu=40.0, rng=np.random.default_rng(0))
    # Half the density: 200 kg/m3 of tissue become 100. A vessel (-100 HU), an airway and infection stay.
    assert inflated.flatten().tolist() == pytest.approx([-900.0, -930.0, -100.0, -990.0, -850.0], abs=0.01)
    assert torch.equal(unchanged, codes)


def test_degradation_keeps_size_and_leaves_its_input_alone() -> None:
    hu, codes = _case()
    before = hu.clone(), codes.clone()
    everything = AugmentationRecipe(
        **{name: 1.0 for name in AugmentationRecipe.__dataclass_fields__ if name.endswith("_probability")}
    )
    for seed in range(8):
        image, labels = degrade(hu, codes, recipe=everything, outside_hu=40.0, rng=np.random.default_rng(seed))
        assert image.shape == hu.shape and labels.shape == codes.shape
        assert torch.isfinite(image).all()
    assert torch.equal(hu, before[0]) and torch.equal(codes, before[1])


def test_cropped_view_is_background_of_outside_hu() -> None:
    hu, codes = _case()
    recipe = replace(NEUTRAL, crop_probability=1.0)
    image, labels = degrade(hu, codes, recipe=recipe, outside_hu=40.0, rng=np.random.default_rng(1))
    hidden = image != hu
    assert 0.03 < hidden.float().mean() < 0.4
    assert (image[hidden] == 40.0).all() and (labels[hidden] == Code.BACKGROUND).all()
    assert torch.equal(labels[~hidden], codes[~hidden])


def test_thick_slices_keep_a_ramp_and_blur_an_edge() -> None:
    recipe = replace(NEUTRAL, thick_probability=1.0)
    edge = torch.zeros(24, 8, 8)
    edge[12:] = 1000.0
    image, _ = degrade(
        edge, torch.zeros(24, 8, 8, dtype=torch.uint8), recipe=recipe, outside_hu=0.0, rng=np.random.default_rng(3)
    )
    line = image[:, 4, 4]
    assert line[:8].numpy() == pytest.approx(0.0, abs=0.01) and line[-8:].numpy() == pytest.approx(1000.0, abs=0.01)
    assert ((line > 1) & (line < 999)).any()
    assert (line.diff() >= -1e-3).all()


@pytest.mark.parametrize("averaged", [True, False])
def test_slices_of_three_voxels_repeat_what_every_third_slice_showed(averaged: bool) -> None:
    ramp = (10.0 * torch.arange(30.0))[:, None, None].expand(30, 4, 4)
    thick = _thick_slices(ramp, thickness=3.0, phase=0.0, averaged=averaged)
    assert thick[3:27].numpy() == pytest.approx(ramp[3:27].numpy(), abs=0.01)  # linear in, linear out
    spike = torch.zeros(30, 4, 4)
    spike[15] = 300.0
    seen = _thick_slices(spike, thickness=3.0, phase=0.0, averaged=averaged)[:, 0, 0]
    # A triangle of half-width 3 gives its middle a third; between slices 3 apart it falls off in a line.
    top = 100.0 if averaged else 300.0
    assert seen[12:19].numpy() == pytest.approx([0, top / 3, 2 * top / 3, top, 2 * top / 3, top / 3, 0], abs=0.01)
