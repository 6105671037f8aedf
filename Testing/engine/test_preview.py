"""The preview shows the patient the right way round, for any grid, and the same way every time."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import SEGMENTS, Label
from CovidSegLib.results.preview import WIDTH, preview_panel, preview_rgb, write_preview_png
from CovidSegLib.results.preview_slices import Plane, preview_planes

L, R, INF = Label.LEFT_LUNG, Label.RIGHT_LUNG, Label.INFECTION
LPS_SHAPE, LPS_SPACING_MM = (30, 40, 60), (4.0, 3.0, 2.0)  # along S, P, L
COLORS = {s.label: tuple(int(np.rint(255 * np.float32(part))) for part in s.color_rgb) for s in SEGMENTS}


def make_case() -> tuple[np.ndarray, np.ndarray]:
    """A CT and labelmap with axes S, P, L: infection at the back of the right lung's base; a bright spine."""
    hu, labels = np.full(LPS_SHAPE, -1000, dtype=np.int16), np.zeros(LPS_SHAPE, dtype=np.uint8)
    hu[:, 4:36, 4:56] = 40
    labels[4:26, 8:30, 8:26], labels[4:26, 8:30, 34:52] = R, L
    hu[labels > 0] = -850
    labels[6:10, 24:29, 10:18] = INF
    hu[labels == INF] = -400
    hu[:, 31:36, 28:32] = 900
    return hu, labels


def on_grid(array_spl: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, Geometry]:
    """The array with its axes permuted and flipped, and the geometry that says so."""
    array = np.flip(array_spl.transpose(order), axis=[axis for axis in range(3) if flips[axis]])
    direction = np.zeros((3, 3))
    for axis in range(3):  # array axis; SPL axis s is LPS row 2 - s
        direction[2 - order[axis], 2 - axis] = -1.0 if flips[axis] else 1.0
    spacing_ijk = tuple(LPS_SPACING_MM[order[axis]] for axis in (2, 1, 0))
    shape = array.shape
    geometry = Geometry((shape[2], shape[1], shape[0]), spacing_ijk, (0.0, 0.0, 0.0), tuple(direction.ravel()))
    return np.ascontiguousarray(array), geometry


def make_preview(order=(0, 1, 2), flips=(False, False, False)) -> np.ndarray:
    hu, labels = make_case()
    hu_kji, geometry = on_grid(hu, order, flips)
    labels_kji, _ = on_grid(labels, order, flips)
    return preview_rgb(hu_kji, labelmap_kji=labels_kji, geometry=geometry)


def centre_of(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Mean (row, column) of the pixels of a colour."""
    rows, columns = np.nonzero((picture == color).all(axis=-1))
    assert rows.size > 0
    return np.array([rows.mean(), columns.mean()])


def first_axial_panels(picture: np.ndarray) -> np.ndarray:
    """The last of the four axial panels, where the base is."""
    height = int(np.flatnonzero((picture == 0).all(axis=(1, 2)))[0])
    return picture[:height, 3 * (WIDTH + 4) // 4 :]


def test_patients_right_is_on_the_images_left_and_anterior_is_up():
    panel = first_axial_panels(make_preview())
    right, left, infection = (centre_of(panel, COLORS[label]) for label in (R, L, INF))
    assert right[1] < panel.shape[1] / 2 < left[1]
    assert infection[1] < panel.shape[1] / 2
    assert infection[0] > left[0]  # at the back, so further down
    spine = centre_of(panel, (255, 255, 255))
    assert spine[0] > panel.shape[0] / 2


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_orientation_of_the_grid_gives_the_same_picture(order):
    expected = make_preview()
    for flips in product((False, True), repeat=3):
        np.testing.assert_array_equal(make_preview(order, flips), expected)


def test_oblique_grid_is_shown_along_its_closest_axes():
    hu, labels = make_case()
    c, s = np.cos(0.3), np.sin(0.3)
    straight = Geometry((60, 40, 30), (2.0, 3.0, 4.0))
    oblique = Geometry((60, 40, 30), (2.0, 3.0, 4.0), (0.0, 0.0, 0.0), (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0))
    np.testing.assert_array_equal(
        preview_rgb(hu, labelmap_kji=labels, geometry=oblique), preview_rgb(hu, labelmap_kji=labels, geometry=straight)
    )


def test_anisotropic_voxels_are_shown_in_true_proportion():
    """The right lung is 36 mm wide and 66 mm deep, whatever its voxel counts."""
    panel = first_axial_panels(make_preview())
    rows, columns = np.nonzero((panel == COLORS[L]).all(axis=-1))
    height, width = (int(np.ptp(index)) + 1 for index in (rows, columns))
    assert height / width == pytest.approx(66 / 36, rel=0.06)


def test_planes_run_from_head_to_foot_and_from_front_to_back():
    hu, labels = make_case()
    axial, others = preview_planes(hu, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0)))
    coronal, right_sagittal, left_sagittal = others
    assert len(axial) == 4 and axial[0].marks == ("R", "L") and right_sagittal.marks == ("A", "P")
    assert [plane.labels.any() for plane in axial] == [True] * 4
    assert (axial[3].labels == INF).any() and not (axial[0].labels == INF).any()
    for plane in (coronal, right_sagittal):
        assert plane.spacing_mm[0] == 4.0
    rows, columns = np.nonzero(right_sagittal.labels == INF)
    assert rows.mean() > right_sagittal.labels.shape[0] / 2 and columns.mean() > right_sagittal.labels.shape[1] / 2
    assert set(np.unique(left_sagittal.labels)) == {0, L}


def test_axial_slice_with_most_infection_is_shown():
    hu, labels = make_case()
    labels[14, 10:28, 36:50] = INF  # between the slices that are shown otherwise
    axial, _ = preview_planes(hu, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0)))
    assert max((plane.labels == INF).sum() for plane in axial) == 18 * 14


def test_coronal_slice_with_most_infection_is_looked_for_in_the_middle_half():
    _, labels = make_case()
    labels[labels == INF] = R
    labels[5:20, 8:10, 10:25] = INF  # more, but at the front, where a slice shows little lung
    labels[5, 24, 10] = INF  # the lungs are 22 slices deep, from 8 on; of these 5 to 16 are looked at
    depth = np.broadcast_to(np.arange(40, dtype=np.int16)[:, np.newaxis], LPS_SHAPE)
    _, (coronal, *_) = preview_planes(depth, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0)))
    assert set(np.unique(coronal.hu)) == {24}


def test_slices_show_three_centimetres_around_the_lungs():
    labels = np.zeros((60, 80, 120), dtype=np.uint8)
    labels[20:40, 30:50, 40:80] = R
    geometry = Geometry((120, 80, 60), (2.0, 3.0, 4.0))
    axial, (coronal, *sagittal) = preview_planes(labels, labelmap_kji=labels, geometry=geometry)
    assert {plane.hu.shape for plane in axial} == {(10 + 20 + 10, 15 + 40 + 15)}
    assert coronal.hu.shape == (8 + 20 + 8, 15 + 40 + 15)
    assert {plane.hu.shape for plane in sagittal} == {(8 + 20 + 8, 10 + 20 + 10)}


def test_side_without_a_lung_is_shown_in_the_middle_of_its_half():
    labels = np.zeros((60, 80, 120), dtype=np.uint8)
    labels[20:40, 30:50, 40:80] = R
    column = np.broadcast_to(np.arange(120, dtype=np.int16), labels.shape)
    _, (_, right, left) = preview_planes(column, labelmap_kji=labels, geometry=Geometry((120, 80, 60), (2.0, 3.0, 4.0)))
    assert (set(np.unique(right.hu)), set(np.unique(left.hu))) == ({59}, {69})


def test_letters_at_the_borders_say_which_side_is_which():
    plane = Plane(np.full((60, 200), -1350, np.int16), np.zeros((60, 200), np.uint8), (1.0, 1.0), ("R", "L"))
    white = (preview_panel(plane, shape=(60, 200), mm_per_pixel=1.0) == 255).all(axis=-1)
    # Glyphs of 5 x 7 dots, 3 pixels each, 8 pixels from the border and at mid-height.
    right, left = white[19:40, 8:23], white[19:40, 177:192]
    assert white.sum() == right.sum() + left.sum()
    assert right[:3, :12].all() and not right[:3, 12:].any()  # the top of an R
    assert left[:18, :3].all() and not left[:18, 3:].any() and left[18:].all()


def test_lung_and_infection_have_outlines_one_pixel_wide():
    for label, rows, columns in ((L, slice(5, 15), slice(2, 8)), (INF, slice(8, 12), slice(4, 7))):
        labels = np.zeros((20, 10), dtype=np.uint8)
        labels[rows, columns] = label
        plane = Plane(np.full((20, 10), -1350, np.int16), labels, (1.0, 1.0), ("R", "L"))
        outline = (preview_panel(plane, shape=(20, 10), mm_per_pixel=1.0) == COLORS[label]).all(axis=-1)
        expected = labels > 0
        expected[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = False
        np.testing.assert_array_equal(outline, expected)


def test_colours_of_pixels_by_hand():
    hu, labels = np.full((20, 10), -600, np.int16), np.zeros((20, 10), dtype=np.uint8)
    hu[0], hu[1], hu[2] = -1350, 150, -1050
    labels[5:15, 2:8] = INF
    panel = preview_panel(Plane(hu, labels, (1.0, 1.0), ("R", "L")), shape=(20, 10), mm_per_pixel=1.0)
    assert panel[:4, 5].tolist() == [[0] * 3, [255] * 3, [51] * 3, [128] * 3]
    tint = 0.6 * 127.5 + 0.4 * 255 * np.array(next(s.color_rgb for s in SEGMENTS if s.label == INF))
    np.testing.assert_allclose(panel[10, 5], tint, atol=0.51)
    doubled = preview_panel(Plane(hu, labels, (1.0, 1.0), ("R", "L")), shape=(40, 20), mm_per_pixel=0.5)
    tinted = (doubled[8:] != doubled[8:, :1]).any(axis=-1)
    assert (np.flatnonzero(tinted.any(axis=1)) + 8).tolist() == list(range(10, 30))
    assert np.flatnonzero(tinted.any(axis=0)).tolist() == list(range(4, 16))


@pytest.mark.parametrize("labels_of", ["none", "one lung", "one voxel"])
def test_unusual_labelmaps_make_a_picture(labels_of):
    hu, labels = make_case()
    if labels_of == "one lung":
        labels[labels == L] = 0
    else:
        labels[:] = 0
    if labels_of == "one voxel":
        labels[0, 0, 0] = INF
    picture = preview_rgb(hu, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0)))
    assert picture.shape[1:] == (WIDTH, 3) and picture.dtype == np.uint8


def test_single_slice_makes_a_picture():
    hu, labels = make_case()
    geometry = Geometry((60, 40, 1), (2.0, 3.0, 4.0))
    assert preview_rgb(hu[8:9], labelmap_kji=labels[8:9], geometry=geometry).shape[1] == WIDTH


def test_nothing_is_drawn_beyond_the_volume():
    """A lung cut by the edge of the field of view is not continued into the panel's empty margin."""
    labels = np.full((20, 10), L, dtype=np.uint8)
    labels[5:9] = INF
    plane = Plane(np.zeros((20, 10), np.int16), labels, spacing_mm=(1.0, 1.0), marks=("A", "P"))
    panel = preview_panel(plane, shape=(60, 200), mm_per_pixel=0.5)  # the volume takes 40 x 20 pixels of it
    inside = np.zeros((60, 200), dtype=bool)
    inside[10:50, 90:110] = True
    assert panel[inside].any(axis=-1).all()
    panel[:, :40] = panel[:, 160:] = 0  # the letters
    assert not panel[~inside].any()


def test_file_is_a_png_of_the_stated_size_with_equal_bytes_every_time(tmp_path):
    hu, labels = make_case()
    for name in ("a.png", "b.png"):
        write_preview_png(
            tmp_path / name, hu_kji=hu, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0))
        )
    raw = (tmp_path / "a.png").read_bytes()
    assert raw == (tmp_path / "b.png").read_bytes()
    assert raw.startswith(b"\x89PNG") and b"tEXt" not in raw and b"tIME" not in raw
    image = sitk.ReadImage(str(tmp_path / "a.png"))
    assert image.GetWidth() == WIDTH and 300 <= image.GetHeight() <= 900
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(image),
        preview_rgb(hu, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0))),
    )


def test_inputs_are_not_modified_and_wrong_shapes_are_refused():
    hu, labels = make_case()
    hu.flags.writeable = labels.flags.writeable = False
    preview_rgb(hu, labelmap_kji=labels, geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0)))
    with pytest.raises(ValueError, match="labelmap has shape"):
        preview_rgb(hu, labelmap_kji=labels[1:], geometry=Geometry((60, 40, 30), (2.0, 3.0, 4.0)))
