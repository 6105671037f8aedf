from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from helpers_experiment import GEOMETRY, ball_labels, tiny_recipe, write_case
from helpers_training import write_nifti

from CovidSegTraining.experiment.cache import (
    load_prepared,
    prepare_case,
    prepare_cases,
    preprocess_array,
    resampled_shape,
    resize,
    resize_labels,
)
from CovidSegTraining.experiment.config import Preprocessing, read_experiment
from CovidSegTraining.experiment.loss import UNKNOWN

PAPER = read_experiment().preprocessing
SETTINGS = tiny_recipe().preprocessing
ISOTROPIC = (3.0, 3.0, 3.0)


def _prepare(data: Path, cache: Path, settings: Preprocessing = SETTINGS) -> list[str]:
    told: list[str] = []
    prepare_cases(data, cache_dir=cache, settings=settings, classes=4, tell=told.append)
    return told


def test_clip_grey_and_z_score_by_hand() -> None:
    hu = np.array([-2000, -1250, -500, 250, 1000, 3000, -1000, 0], dtype=np.int16).reshape(2, 2, 2)
    grey = np.array([0, 0, 127.5, 255, 255, 255, 42.5, 212.5])
    expected = np.round(grey)
    plain = replace(SETTINGS, spacing_ijk_mm=None)
    image, known = preprocess_array(hu, None, spacing_kji_mm=ISOTROPIC, settings=replace(plain, z_score=False))
    assert known is None and image.dtype == np.float32
    np.testing.assert_array_equal(image.ravel(), expected)
    image, _ = preprocess_array(hu, None, spacing_kji_mm=ISOTROPIC, settings=plain)
    np.testing.assert_allclose(image.ravel(), (expected - expected.mean()) / expected.std(), rtol=1e-5)
    assert hu[0, 0, 0] == -2000


def test_grey_levels_span_each_volumes_own_range() -> None:
    hu = np.array([[[-100.0, 0.0, 100.0]]])
    settings = replace(SETTINGS, spacing_ijk_mm=None, z_score=False)
    image, _ = preprocess_array(hu, None, spacing_kji_mm=ISOTROPIC, settings=settings)
    np.testing.assert_array_equal(image.ravel(), [0, 128, 255])


def test_without_any_step_the_volume_is_as_it_was() -> None:
    settings = replace(SETTINGS, clip_hu=None, grey_levels=None, spacing_ijk_mm=None, z_score=False)
    hu = np.arange(-4000, 4000, 1000, dtype=np.int16).reshape(2, 2, 2)
    image, _ = preprocess_array(hu, None, spacing_kji_mm=ISOTROPIC, settings=settings)
    np.testing.assert_array_equal(image, hu)


def test_volume_of_one_value_becomes_zero() -> None:
    image, _ = preprocess_array(np.full((8, 8, 8), 7), None, spacing_kji_mm=ISOTROPIC, settings=SETTINGS)
    assert not image.any()


def test_size_is_rounded_down_and_the_extent_kept() -> None:
    assert resampled_shape((301, 512, 512), spacing_kji_mm=(1.0, 0.8, 0.8), wanted_kji_mm=(2.7, 1.58, 1.58)) == (
        111,
        259,
        259,
    )
    assert resampled_shape((45, 1, 10), spacing_kji_mm=(0.1, 0.1, 3.0), wanted_kji_mm=(0.3, 9.0, 3.0)) == (15, 1, 10)


@pytest.mark.parametrize("order", [1, 3])
def test_resizing_keeps_ramps_and_takes_voxels_as_areas(order: int) -> None:
    ramp = np.broadcast_to(np.arange(20.0), (4, 4, 20))
    # Voxel n of 10 covers voxels 2n and 2n + 1 of 20; splines bend near the ends.
    halved = resize(ramp, shape_kji=(4, 4, 10), order=order)
    np.testing.assert_allclose(halved[0, 0, 3:-3], 2 * np.arange(10)[3:-3] + 0.5, atol=1e-3)
    doubled = resize(ramp, shape_kji=(2, 8, 40), order=order)
    np.testing.assert_allclose(doubled[1, 3, 8:-8], (np.arange(40)[8:-8] + 0.5) / 2 - 0.5, atol=1e-3)


def test_resizing_stays_within_the_images_values() -> None:
    step = np.zeros((4, 4, 12))
    step[..., 6:] = 100.0
    resized = resize(step, shape_kji=(4, 4, 30), order=3)
    assert resized.min() == 0.0 and resized.max() == 100.0


def test_labels_are_resized_one_by_one_and_the_higher_wins_a_tie() -> None:
    labels = np.array([0, 1, 1, 3, 2, 2, 1, 0], dtype=np.uint8).reshape(1, 1, 8)
    # Pairs: background and 1 tie, 1 and 3 tie, both 2, 1 and background tie.
    assert resize_labels(labels, shape_kji=(1, 1, 4), threshold=0.5).ravel().tolist() == [1, 3, 2, 1]
    # Above one half neither of a pair suffices, and background is left.
    assert resize_labels(labels, shape_kji=(1, 1, 4), threshold=0.6).ravel().tolist() == [0, 0, 2, 0]
    np.testing.assert_array_equal(resize_labels(labels, shape_kji=(1, 1, 8), threshold=0.5), labels)


def test_case_is_resampled_with_its_labels(tmp_path: Path) -> None:
    write_case(tmp_path / "a", seed=0)
    settings = replace(SETTINGS, spacing_ijk_mm=(1.5, 3.0, 6.0))
    case = prepare_case(tmp_path / "a", settings=settings, classes=4)
    assert case.image_kji.shape == case.labels_kji.shape == (12, 24, 48)
    assert abs(case.image_kji.mean()) < 1e-4 and case.image_kji.std() == pytest.approx(1.0, abs=1e-3)
    # Every second slice's worth, twice the columns: as many voxels of each label.
    native = np.bincount(ball_labels(seed=0).ravel(), minlength=4)
    np.testing.assert_allclose(np.bincount(case.labels_kji.ravel(), minlength=4), native, rtol=0.12)


def test_orientation_is_the_headers_only_if_asked_for(tmp_path: Path) -> None:
    flipped = Geometry(GEOMETRY.size_ijk, ISOTROPIC, direction_lps=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    write_case(tmp_path / "a", seed=0, geometry=flipped)
    stored = prepare_case(tmp_path / "a", settings=SETTINGS, classes=4)
    turned = prepare_case(tmp_path / "a", settings=replace(SETTINGS, orient=True), classes=4)
    np.testing.assert_array_equal(stored.labels_kji, ball_labels(seed=0))
    np.testing.assert_array_equal(turned.labels_kji, stored.labels_kji[:, ::-1, ::-1])
    np.testing.assert_allclose(turned.image_kji, stored.image_kji[:, ::-1, ::-1], atol=1e-5)


def test_oriented_case_is_the_same_however_it_is_stored(tmp_path: Path) -> None:
    settings = replace(SETTINGS, orient=True, spacing_ijk_mm=(3.0, 3.0, 6.0))
    grid = Geometry((24, 24, 24), (2.0, 3.0, 5.0))
    # The first axis of the array to the left, the last one to the head.
    swapped = Geometry((24, 24, 24), (5.0, 3.0, 2.0), direction_lps=(0, 0, 1.0, 0, 1.0, 0, 1.0, 0, 0))
    labels_kji = ball_labels(seed=0)
    hu_kji = (np.choose(labels_kji, [40, -850, -850, -300])).astype(np.int16)
    valid_kji = np.ones((24, 24, 24), dtype=np.uint8)
    valid_kji[:6] = 0
    cases = []
    for name, geometry in (("grid", grid), ("swapped", swapped)):
        for kind, array in (("imaging", hu_kji), ("segmentation", labels_kji), ("valid", valid_kji)):
            stored = array if geometry is grid else array.transpose(2, 1, 0)
            write_nifti(tmp_path / name / f"{kind}.nii.gz", stored, geometry=geometry)
        cases.append(prepare_case(tmp_path / name, settings=settings, classes=4))
    assert cases[0].image_kji.shape == (20, 24, 16)
    assert (cases[0].labels_kji[:5] == UNKNOWN).all() and (cases[0].labels_kji[5:] != UNKNOWN).all()
    np.testing.assert_array_equal(cases[0].labels_kji, cases[1].labels_kji)
    np.testing.assert_allclose(cases[0].image_kji, cases[1].image_kji, atol=1e-4)


@pytest.mark.parametrize(("interpolation", "order"), [("linear", 1), ("cubic", 3)])
def test_image_is_resampled_by_the_spline_that_is_named(interpolation: str, order: int) -> None:
    hu = np.random.default_rng(0).normal(0, 100, (6, 6, 6))
    settings = replace(SETTINGS, clip_hu=None, grey_levels=None, z_score=False, spacing_ijk_mm=(1.5, 1.5, 1.5))
    settings = replace(settings, interpolation=interpolation)  # type: ignore[arg-type]
    image, _ = preprocess_array(hu, None, spacing_kji_mm=ISOTROPIC, settings=settings)
    np.testing.assert_allclose(image, resize(hu, shape_kji=(12, 12, 12), order=order), atol=1e-3)


def test_prepared_case_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(PermissionError):
        load_prepared(tmp_path, names=["a"], settings=SETTINGS, classes=4)


def test_what_is_not_known_counts_nowhere(tmp_path: Path) -> None:
    settings = replace(SETTINGS, spacing_ijk_mm=(2.0, 3.0, 4.0))
    valid = np.ones((24, 24, 24), dtype=np.uint8)
    valid[:, :, :6] = 0
    images = []
    for name, filling in (("a", -1024), ("b", 3000)):
        hu = write_case(tmp_path / name, seed=0)
        hu[valid == 0] = filling
        write_nifti(tmp_path / name / "imaging.nii.gz", hu, geometry=GEOMETRY)
        write_nifti(tmp_path / name / "valid.nii.gz", valid, geometry=GEOMETRY)
        case = prepare_case(tmp_path / name, settings=settings, classes=4)
        unknown = case.labels_kji == UNKNOWN
        assert unknown[:, :, :9].all() and not unknown[:, :, 10:].any()
        assert not case.image_kji[unknown].any()
        counted = case.image_kji[~unknown]
        assert abs(counted.mean()) < 1e-4 and counted.std() == pytest.approx(1.0, abs=1e-3)
        images.append(case.image_kji)
    np.testing.assert_array_equal(*images)


def test_cache_is_kept_until_file_or_recipe_changes(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    for seed, name in enumerate(("a", "b")):
        write_case(data / name, seed=seed)
    assert _prepare(data, cache) == ["a: 24x24x24", "b: 24x24x24"]
    assert _prepare(data, cache) == ["a: already prepared", "b: already prepared"]
    write_case(data / "b", seed=5)
    assert _prepare(data, cache) == ["a: already prepared", "b: 24x24x24"]
    write_nifti(data / "a" / "valid.nii.gz", np.ones((24, 24, 24), dtype=np.uint8), geometry=GEOMETRY)
    assert _prepare(data, cache) == ["a: 24x24x24", "b: already prepared"]
    other = replace(SETTINGS, grey_levels=100)
    assert _prepare(data, cache, other) == ["a: 24x24x24", "b: 24x24x24"]
    with pytest.raises(InputError, match=r"a.npz: prepared by another recipe"):
        load_prepared(cache, names=["a"], settings=SETTINGS, classes=4)
    cases = load_prepared(cache, names=["b", "a"], settings=other, classes=4)
    assert [case.name for case in cases] == ["b", "a"] and cases[0].key != cases[1].key
    assert cases[1].image_kji.dtype == np.float32 and cases[1].labels_kji.dtype == np.uint8


def test_damaged_or_missing_cache_is_named(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    write_case(data / "a", seed=0)
    _prepare(data, cache)
    content = (cache / "a.npz").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"nonsense"):
        (cache / "a.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a.npz: damaged .*; delete it and run 'covidseg-train prepare' again"):
            load_prepared(cache, names=["a"], settings=SETTINGS, classes=4)
        assert _prepare(data, cache) == ["a: 24x24x24"]
    with pytest.raises(InputError, match=r"nobody.npz: not prepared"):
        load_prepared(cache, names=["nobody"], settings=SETTINGS, classes=4)


def test_case_of_the_products_training_is_not_called_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", hu=np.zeros((2, 2, 2)), codes=np.zeros((2, 2, 2)), key=np.array("x"))
    with pytest.raises(InputError, match=r"a.npz: prepared by another recipe"):
        load_prepared(tmp_path, names=["a"], settings=SETTINGS, classes=4)


def test_label_that_nobody_has_is_named(tmp_path: Path) -> None:
    write_case(tmp_path / "data" / "a", seed=0)
    labels = ball_labels(seed=0)
    labels[labels == 3] = 1
    write_nifti(tmp_path / "data" / "a" / "segmentation.nii.gz", labels, geometry=GEOMETRY)
    assert _prepare(tmp_path / "data", tmp_path / "cache")[-1] == "a: warning: no voxel has label 3"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (4, np.uint8, "label 4 is out of range; the recipe has 4 classes, 0 to 3"),
        (256, np.int16, "labels must be whole numbers"),
        (-1, np.int16, "labels must be whole numbers"),
        (1.5, np.float32, "labels must be whole numbers"),
    ],
)
def test_labels_out_of_range_are_refused(tmp_path: Path, value: float, kind: type, message: str) -> None:
    write_case(tmp_path / "a", seed=0)
    labels = ball_labels(seed=0).astype(kind)
    labels[3, 3, 3] = value
    write_nifti(tmp_path / "a" / "segmentation.nii.gz", labels, geometry=GEOMETRY)
    with pytest.raises(InputError, match=rf"segmentation.nii.gz: {message}"):
        prepare_case(tmp_path / "a", settings=SETTINGS, classes=4)


def test_unusable_cases_are_refused_by_name(tmp_path: Path) -> None:
    write_case(tmp_path / "a", seed=0)
    other = Geometry((24, 24, 24), (3.0, 3.0, 3.1))
    write_nifti(tmp_path / "a" / "segmentation.nii.gz", ball_labels(seed=0), geometry=other)
    with pytest.raises(InputError, match=r"segmentation.nii.gz: its grid, .* differs from the CT's"):
        _prepare(tmp_path, tmp_path / "cache")
    write_case(tmp_path / "a", seed=0)
    write_nifti(tmp_path / "a" / "valid.nii.gz", np.zeros((24, 24, 24), dtype=np.uint8), geometry=GEOMETRY)
    with pytest.raises(InputError, match=r"valid.nii.gz: no voxel is marked as known"):
        _prepare(tmp_path, tmp_path / "cache")
    (tmp_path / "a" / "segmentation.nii.gz").unlink()
    with pytest.raises(InputError, match=r"a: no segmentation.nii.gz"):
        _prepare(tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.realdata
def test_real_case_by_the_papers_recipe(data_dir: Path) -> None:
    case = prepare_case(data_dir / "muller20" / "coronacases_002", settings=PAPER, classes=4)
    # 200 x 156 x 76 voxels of 1.3672 x 1.3672 x 1.5 mm.
    assert case.image_kji.shape == (42, 134, 173)
    known = case.labels_kji != UNKNOWN
    assert abs(case.image_kji[known].mean()) < 1e-3 and case.image_kji[known].std() == pytest.approx(1.0, abs=1e-3)
    assert set(np.unique(case.labels_kji)) == {0, 1, 2, 3, UNKNOWN}
    lung, background = (case.image_kji[np.isin(case.labels_kji, group)].mean() for group in ((1, 2), (0,)))
    assert lung < background
