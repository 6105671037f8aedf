"""Anatomical consistency: sides settled, pieces that are no lung dropped, probabilities and labels in step."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.anatomy.sides import settle_sides
from CovidSegLib.errors import ModelError
from CovidSegLib.labels import Label
from CovidSegLib.postprocess import PostprocessingRecipe, make_consistent
from helpers_phantom import small_phantom
from hypothesis import given, settings
from hypothesis import strategies as st

BACKGROUND, LEFT, RIGHT, INFECTION = (int(label) for label in Label)
SPACING_KJI_MM = (5.0, 4.0, 4.0)
VOXEL_ML = 0.08


def probabilities_of(labels: np.ndarray, *, certainty: float = 0.7) -> np.ndarray:
    """Return (4, k, j, i) float32 probabilities whose argmax is `labels`."""
    found = np.full((4, *labels.shape), (1 - certainty) / 3, np.float32)
    np.put_along_axis(found, labels[None].astype(np.int64), certainty, axis=0)
    return found


def consistent(
    labels: np.ndarray,
    *,
    hu_kji: np.ndarray | None = None,
    inside: np.ndarray | None = None,
    recipe: PostprocessingRecipe | None = None,
) -> np.ndarray:
    """Return the labels after correction, having checked that the probabilities say the same."""
    probabilities = probabilities_of(labels)
    found = make_consistent(
        probabilities,
        hu_kji=np.full(labels.shape, -800.0, np.float32) if hu_kji is None else hu_kji,
        inside_kji=np.ones(labels.shape, bool) if inside is None else inside,
        spacing_kji_mm=SPACING_KJI_MM,
        recipe=recipe or PostprocessingRecipe(),
    )
    assert found.dtype == np.uint8
    assert np.array_equal(probabilities.argmax(axis=0), found)
    assert probabilities.min() >= 0.0 and np.allclose(probabilities.sum(axis=0), 1.0, atol=1e-5)
    return found


def two_lungs() -> np.ndarray:
    """Return (40, 40, 60) labels: right lung at low i, left lung at high i, each of 12 x 20 x 30 voxels or 576 ml."""
    labels = np.zeros((40, 40, 60), np.uint8)
    labels[5:35, 10:30, 8:20] = RIGHT
    labels[5:35, 10:30, 40:52] = LEFT
    return labels


def test_consistent_labels_stay_as_they_are() -> None:
    labels = two_lungs()
    labels[10:20, 15:25, 42:50] = INFECTION
    assert np.array_equal(consistent(labels), labels)


def test_background_around_the_lungs_changes_nothing() -> None:
    labels = two_lungs()
    labels[10:20, 15:25, 42:50] = INFECTION
    labels[20:24, 12:20, 44:50] = RIGHT
    labels[5:7, 10:12, 22:24] = LEFT
    around = ((3, 5), (7, 1), (1, 9))
    alone = consistent(labels)
    assert not np.array_equal(alone, labels)
    inner = tuple(slice(before, -after) for before, after in around)
    padded = consistent(np.pad(labels, around))
    assert np.array_equal(padded[inner], alone)
    assert np.count_nonzero(padded) == np.count_nonzero(alone)


def test_phantom_stays_as_it_is() -> None:
    phantom = small_phantom(3, infection_percent=20.0)
    found = consistent(phantom.labelmap_kji)
    same = found == phantom.labelmap_kji
    # Small islands of infection may become healthy lung; nothing else may change.
    assert np.all((phantom.labelmap_kji[~same] == INFECTION) & np.isin(found[~same], (LEFT, RIGHT)))
    assert same.mean() > 0.999


@pytest.mark.parametrize(("lung", "wrong", "columns"), [(RIGHT, LEFT, slice(8, 20)), (LEFT, RIGHT, slice(40, 52))])
def test_island_of_the_wrong_side_takes_the_side_of_its_lung(lung: int, wrong: int, columns: slice) -> None:
    labels = two_lungs()
    labels[8:16, 14:24, columns][:, :, 2:9] = wrong
    assert np.array_equal(consistent(labels), two_lungs())
    assert np.count_nonzero(labels == wrong) > np.count_nonzero(two_lungs() == wrong)


def test_side_of_a_lung_is_what_most_of_it_was_called_wherever_it_lies() -> None:
    expected = np.array([BACKGROUND, RIGHT, LEFT], np.uint8)[two_lungs()]
    labels = expected.copy()
    labels[8:16, 14:24, 10:17] = RIGHT
    labels[8:16, 14:24, 42:49] = LEFT
    assert np.array_equal(consistent(labels), expected)


@pytest.mark.parametrize(("wrong", "columns"), [(LEFT, slice(10, 14)), (RIGHT, slice(45, 49))])
def test_island_takes_the_side_around_it_also_where_the_lungs_do_not_come_apart(wrong: int, columns: slice) -> None:
    expected = two_lungs()
    expected[5:35, 10:30, 20:30], expected[5:35, 10:30, 30:40] = RIGHT, LEFT
    labels = expected.copy()
    labels[10:14, 15:19, columns] = wrong
    assert np.array_equal(consistent(labels), expected)


def test_island_takes_the_side_that_is_nearer_in_millimetres() -> None:
    labels = np.zeros((20, 30, 60), np.uint8)
    labels[8:18, 5:25, 5:30], labels[8:18, 5:25, 30:55] = RIGHT, LEFT
    labels[3:8, 10:12, 5:26] = RIGHT
    island = (slice(3, 4), slice(10, 12), slice(35, 37))  # 5 slices of 10 mm below its own, 10 voxels of 1 mm beside
    labels[island] = LEFT
    settle_sides(probabilities_of(labels), labels, spacing_kji_mm=(10.0, 1.0, 1.0))
    assert (labels[island] == RIGHT).all() and (labels[8:18, 5:25, 30:55] == LEFT).all()


def test_lungs_that_touch_keep_their_sides() -> None:
    labels = two_lungs()
    labels[18:22, 10:13, 20:30] = RIGHT
    labels[18:22, 10:13, 30:40] = LEFT
    assert np.array_equal(consistent(labels), labels)


def test_both_lungs_given_to_one_side_are_told_apart_by_their_place() -> None:
    labels = two_lungs()
    labels[labels == LEFT] = RIGHT
    assert np.array_equal(consistent(labels), two_lungs())


def test_infection_keeps_its_label_where_the_side_of_its_lung_changes() -> None:
    labels = two_lungs()
    labels[8:20, 12:28, 8:20] = LEFT
    labels[10:16, 15:25, 10:18] = INFECTION
    expected = two_lungs()
    expected[10:16, 15:25, 10:18] = INFECTION
    assert np.array_equal(consistent(labels), expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_lobe_on_a_neck_stays_with_its_lung_though_the_other_lung_is_nearer(*, mirrored: bool) -> None:
    labels = np.zeros((40, 40, 60), np.uint8)
    labels[2:38, 8:32, 4:20] = RIGHT
    labels[20:38, 8:32, 38:56] = LEFT
    labels[2:12, 14:28, 28:40] = LEFT  # its lowest lobe, 32 mm from the right lung
    labels[12:20, 18:22, 36:40] = LEFT  # as thick as the bridge between the lungs, so that both break at once
    labels[30:34, 18:22, 20:38] = RIGHT
    if mirrored:
        labels = np.array([0, RIGHT, LEFT], np.uint8)[labels[:, :, ::-1]]
    found = consistent(labels)
    lobe = np.s_[2:12, 14:28, 28:40] if not mirrored else np.s_[2:12, 14:28, 20:32]
    assert np.array_equal(found[lobe], labels[lobe])


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_single_lung_keeps_its_side(side: int) -> None:
    labels = np.where(two_lungs() == side, side, BACKGROUND).astype(np.uint8)
    assert np.array_equal(consistent(labels), labels)


@pytest.mark.parametrize("missing", ["left", "right"])
@pytest.mark.parametrize("seed", [3, 7, 11])
def test_single_lung_of_a_phantom_is_not_split_into_two_sides(seed: int, missing: str) -> None:
    phantom = small_phantom(seed, missing_lung=missing, infection_percent=30.0)
    # A lesion in a corner of the chest wall is not this test's matter.
    found = consistent(phantom.labelmap_kji, recipe=PostprocessingRecipe(min_lung_contact=0.0))
    gone = LEFT if missing == "left" else RIGHT
    assert not (found == gone).any()
    assert np.mean((found > 0) == (phantom.labelmap_kji > 0)) > 0.9999


def test_single_lung_with_a_waist_is_not_split_into_two_sides() -> None:
    labels = np.zeros((40, 40, 60), np.uint8)
    labels[5:17, 10:30, 8:22] = labels[23:35, 10:30, 8:22] = RIGHT
    labels[17:23, 17:20, 13:16] = RIGHT
    assert np.array_equal(consistent(labels), labels)


def test_bowel_gas_and_specks_are_dropped() -> None:
    labels = two_lungs()
    labels[37:39, 20:26, 28:36] = LEFT  # 7.7 ml
    labels[1, 2:4, 2:4] = RIGHT
    labels[1, 35, 50] = INFECTION
    assert np.array_equal(consistent(labels), two_lungs())


def test_speck_that_neither_side_wins_alone_is_dropped() -> None:
    probabilities = probabilities_of(two_lungs())
    probabilities[:, 18:20, 18:20, 25:27] = np.array([0.4, 0.3, 0.3, 0.0], np.float32)[:, None, None, None]
    found = make_consistent(
        probabilities,
        hu_kji=np.full((40, 40, 60), -800.0, np.float32),
        inside_kji=np.ones((40, 40, 60), bool),
        spacing_kji_mm=SPACING_KJI_MM,
        recipe=PostprocessingRecipe(),
    )
    assert np.array_equal(found, two_lungs())
    assert np.array_equal(probabilities.argmax(axis=0), found)


def test_small_pieces_are_measured_against_the_largest_lung() -> None:
    labels = two_lungs()
    labels[37:40, 18:30, 32:38] = LEFT  # 17 ml
    assert np.array_equal(consistent(labels), labels)
    strict = PostprocessingRecipe(min_lung_piece_share=0.05)
    assert np.array_equal(consistent(labels, recipe=strict), two_lungs())


@pytest.mark.parametrize(
    ("recipe", "rows", "columns", "is_kept"),
    [
        pytest.param(PostprocessingRecipe(min_lung_piece_share=0.0), 5, 8, False, id="9.6 ml"),
        pytest.param(PostprocessingRecipe(min_lung_piece_share=0.0), 6, 7, True, id="10.1 ml"),
        pytest.param(PostprocessingRecipe(), 5, 9, False, id="10.8 ml, 1.9 % of the largest"),
        pytest.param(PostprocessingRecipe(), 7, 7, True, id="11.8 ml, 2.04 % of the largest"),
    ],
)
def test_piece_of_lung_stays_from_10_ml_and_2_percent_of_the_largest(
    recipe: PostprocessingRecipe, rows: int, columns: int, *, is_kept: bool
) -> None:
    labels = two_lungs()
    labels[37:40, 18 : 18 + rows, 32 : 32 + columns] = LEFT
    found = consistent(labels, recipe=recipe)
    assert np.array_equal(found, labels if is_kept else two_lungs())


@pytest.mark.parametrize(("columns", "is_kept"), [(10, False), (11, True)], ids=["5.6 %", "6.1 %"])
def test_infection_that_touches_no_lung_stays_from_6_percent_of_the_largest_piece(columns: int, is_kept: bool) -> None:
    labels = two_lungs()
    labels[2:12, 32:36, 25 : 25 + columns] = INFECTION
    no_sheets = PostprocessingRecipe(min_lung_contact=0.0, min_film_contact=0.0)
    assert np.array_equal(consistent(labels, recipe=no_sheets), labels if is_kept else two_lungs())


@pytest.mark.parametrize(
    ("box", "is_kept"),
    [
        # Under the right lung, whose lower face is k 5, j 10..29, i 8..19; twice volume by surface, share on lung.
        pytest.param(np.s_[3:5, 10:30, 9:20], False, id="7.4 mm, 0.37"),
        pytest.param(np.s_[4:5, 10:30, 9:20], True, id="4.3 mm, 0.43"),
        pytest.param(np.s_[2:5, 10:30, 9:20], False, id="9.8 mm, 0.33"),
        pytest.param(np.s_[1:5, 10:30, 9:18], True, id="11.1 mm, 0.28"),
        pytest.param(np.s_[3:5, 10:30, 9:27], False, id="57.6 ml, 0.24"),
        pytest.param(np.s_[3:5, 10:30, 9:28], True, id="60.8 ml, 0.23"),
        # In it: along an edge, and along the lower face.
        pytest.param(np.s_[5:6, 10:11, 9:20], False, id="2.1 mm, 0.50"),
        pytest.param(np.s_[5:6, 15:16, 10:19], True, id="2.1 mm, 0.79"),
    ],
)
def test_thin_infection_on_little_lung_is_none_within_the_limits_of_the_method(
    box: tuple[slice, ...], *, is_kept: bool
) -> None:
    labels = two_lungs()
    labels[:, 2:38, 40:56] = LEFT  # reaches beyond the right one
    labels[box] = INFECTION
    infected = consistent(labels) == INFECTION
    assert np.array_equal(infected, (labels == INFECTION) & is_kept)


@pytest.mark.parametrize("box", [np.s_[3:5, 10:30, 9:20], np.s_[2:5, 10:30, 9:20]], ids=["7.4 mm", "9.8 mm"])
def test_sheet_under_the_lowest_lung_is_none_wherever_the_other_lung_ends(box: tuple[slice, ...]) -> None:
    labels = two_lungs()
    labels[box] = INFECTION
    assert not (consistent(labels) == INFECTION).any()


@given(
    inside=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_answer_does_not_depend_on_the_room_around_the_lungs(inside: tuple[int, int, int], seed: int) -> None:
    """Even in-plane, as every other voxel is looked at there.

    Nothing lies at the image's own border, where a face of infection counts only if there is a voxel beyond it.
    """
    rng = np.random.default_rng(seed)
    labels = two_lungs()
    for start in rng.integers((3, 6, 4), (36, 28, 50), (6, 3)):
        stop = np.minimum(start + rng.integers(1, (5, 16, 16)), np.array(labels.shape) - 1)
        labels[tuple(map(slice, start, stop))] = rng.choice([0, LEFT, RIGHT, INFECTION])
    k, j, i = inside[0], 2 * inside[1], 2 * inside[2]
    wide = np.pad(labels, ((k, 4), (j, 6), (i, 5)))
    assert np.array_equal(consistent(wide)[k : k + 40, j : j + 40, i : i + 60], consistent(labels))


def test_infection_that_touches_no_lung_is_dropped_unless_it_may_be_a_whole_lung() -> None:
    labels = two_lungs()
    labels[2:12, 32:36, 25:33] = INFECTION  # 26 ml, 4 % of a lung
    assert np.array_equal(consistent(labels), two_lungs())
    solid = two_lungs()
    solid[solid == LEFT] = INFECTION
    assert np.array_equal(consistent(solid), solid)


@pytest.mark.parametrize(("columns", "is_kept"), [(10, False), (12, True)])
def test_infection_that_hangs_on_a_lung_by_a_thread_is_treated_as_if_it_touched_none(
    columns: int, is_kept: bool
) -> None:
    labels = two_lungs()
    labels[2:12, 32:36, 25 : 25 + columns] = INFECTION
    labels[9, 30:32, 19:26] = INFECTION  # the thread, below the right lung
    labels[9, 29, 19] = INFECTION
    no_sheets = PostprocessingRecipe(min_lung_contact=0.0, min_film_contact=0.0)
    found = consistent(labels, recipe=no_sheets)
    assert (found[2:12, 32:36] == INFECTION).any() == is_kept
    assert np.array_equal(found[5:35, 10:29], two_lungs()[5:35, 10:29]), "the lungs stay"


def test_lung_and_infection_outside_the_patient_are_dropped() -> None:
    labels = two_lungs()
    labels[5:35, 10:30, 52:58] = LEFT
    labels[10:20, 10:20, 55:58] = INFECTION
    inside = np.ones(labels.shape, bool)
    inside[:, :, 52:] = False
    assert np.array_equal(consistent(labels, inside=inside), two_lungs())


def test_speck_of_infection_becomes_the_lung_around_it() -> None:
    labels = two_lungs()
    labels[20, 20, 45] = labels[20, 20, 12] = INFECTION
    recipe = PostprocessingRecipe(min_infection_ml=0.1)
    assert np.array_equal(consistent(labels, recipe=recipe), two_lungs())
    kept = PostprocessingRecipe(min_infection_ml=VOXEL_ML)
    assert np.array_equal(consistent(labels, recipe=kept), labels)


def test_speck_of_infection_leaves_no_hole_if_background_comes_second() -> None:
    labels = two_lungs()
    labels[20, 20, 45] = INFECTION
    probabilities = probabilities_of(labels)
    probabilities[:, 20, 20, 45] = (0.35, 0.15, 0.05, 0.45)
    found = make_consistent(
        probabilities,
        hu_kji=np.full(labels.shape, -800.0, np.float32),
        inside_kji=np.ones(labels.shape, bool),
        spacing_kji_mm=SPACING_KJI_MM,
        recipe=PostprocessingRecipe(min_infection_ml=0.1),
    )
    assert np.array_equal(found, two_lungs())
    assert np.array_equal(probabilities.argmax(axis=0), found)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, LEFT), (1.4, LEFT), (1.6, INFECTION)])
def test_factor_makes_doubtful_voxels_infection(factor: float, expected: int) -> None:
    labels = two_lungs()
    probabilities = probabilities_of(labels)
    doubtful = np.zeros(labels.shape, bool)
    doubtful[18:24, 18:24, 43:48] = True
    probabilities[:, doubtful] = np.array([0.0, 0.6, 0.0, 0.4])[:, None]
    found = make_consistent(
        probabilities,
        hu_kji=np.full(labels.shape, -800.0, np.float32),
        inside_kji=np.ones(labels.shape, bool),
        spacing_kji_mm=SPACING_KJI_MM,
        recipe=PostprocessingRecipe(infection_factor=factor),
    )
    assert np.array_equal(found, np.where(doubtful, expected, labels))
    assert probabilities.sum(axis=0) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("label", [BACKGROUND, INFECTION])
def test_labels_without_lung_become_or_stay_empty_or_whole(label: int) -> None:
    labels = np.full((8, 9, 10), label, np.uint8)
    found = consistent(labels)
    assert np.array_equal(found, labels)


def test_nothing_inside_gives_nothing() -> None:
    labels = two_lungs()
    assert not consistent(labels, inside=np.zeros(labels.shape, bool)).any()


def test_unknown_key_of_a_recipe_is_refused() -> None:
    assert PostprocessingRecipe.from_dict({"min_infection_ml": 1.0}).min_infection_ml == 1.0
    with pytest.raises(ModelError, match="unknown key 'min_vessel_ml'"):
        PostprocessingRecipe.from_dict({"min_vessel_ml": 1.0})


def test_stomach_gas_taken_for_lung_is_background() -> None:
    labels = two_lungs()
    hu = np.full(labels.shape, -850.0, np.float32)
    stomach = np.zeros(labels.shape, bool)
    stomach[5:12, 12:26, 42:51] = True
    labels[5:14, 10:30, 40:52] = LEFT
    hu[3:14, 10:28, 40:53] = 40.0  # wall and diaphragm
    hu[stomach] = -990.0
    found = consistent(labels, hu_kji=hu)
    assert not found[stomach].any()
    assert (found[15:] == two_lungs()[15:]).all()
