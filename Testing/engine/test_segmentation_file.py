"""Segmentation files: exact there and back, as Slicer reads and writes them, and clear refusals."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import SEGMENTS
from CovidSegLib.results.nrrd_writer import write_layers_nrrd
from CovidSegLib.results.segmentation_reader import read_segmentation
from CovidSegLib.results.terminology import TERMINOLOGY, segment_id_of, terminology_entry
from CovidSegLib.segmentation_file import write_labelmap_nifti, write_seg_nrrd
from helpers_segmentation import (
    GEOMETRIES,
    INF,
    SIZE_IJK,
    L,
    R,
    any_geometry,
    make_labelmap,
)

# --- our own files ---------------------------------------------------------------------------------


@any_geometry
def test_labelmap_nifti_keeps_voxels_and_geometry(tmp_path, geometry):
    path, labelmap = tmp_path / "labelmap.nii.gz", make_labelmap()
    write_labelmap_nifti(path, labelmap_kji=labelmap, geometry=geometry)
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    masks = read_segmentation(path)
    np.testing.assert_array_equal(masks.to_labelmap(), labelmap)
    np.testing.assert_allclose(masks.geometry.ijk_to_lps, geometry.ijk_to_lps, rtol=0, atol=1e-4)


@any_geometry
def test_seg_nrrd_keeps_voxels_and_geometry(tmp_path, geometry):
    path, labelmap = tmp_path / "segmentation.seg.nrrd", make_labelmap()
    write_seg_nrrd(path, labelmap_kji=labelmap, geometry=geometry)
    masks = read_segmentation(path)
    np.testing.assert_array_equal(masks.to_labelmap(), labelmap)
    assert masks.geometry.size_ijk == geometry.size_ijk
    np.testing.assert_allclose(masks.geometry.ijk_to_lps, geometry.ijk_to_lps, rtol=0, atol=1e-12)


def test_lungs_of_seg_nrrd_include_their_infection(tmp_path):
    path, labelmap = tmp_path / "a.seg.nrrd", make_labelmap()
    write_seg_nrrd(path, labelmap_kji=labelmap, geometry=GEOMETRIES["straight"])
    masks = read_segmentation(path)
    infected_right, infected_left = np.zeros_like(labelmap, bool), np.zeros_like(labelmap, bool)
    infected_right[3:5, 3:6, 2:4] = infected_left[4:6, 3:5, 9:12] = infected_left[8, 10, 13] = True
    np.testing.assert_array_equal(masks.right_kji, (labelmap == R) | infected_right)
    np.testing.assert_array_equal(masks.left_kji, (labelmap == L) | infected_left)
    np.testing.assert_array_equal(masks.infection_kji, labelmap == INF)


@pytest.mark.parametrize(("write", "name"), [(write_labelmap_nifti, "a.nii.gz"), (write_seg_nrrd, "a.seg.nrrd")])
def test_equal_input_gives_equal_bytes(tmp_path, write, name):
    content = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, labelmap_kji=make_labelmap(), geometry=GEOMETRIES["oblique"])
        content.append((tmp_path / folder / name).read_bytes())
    assert content[0] == content[1]
    start = content[0].index(b"\x1f\x8b")
    assert content[0][start + 4 : start + 8] == b"\0\0\0\0"  # gzip's time


@pytest.mark.parametrize("write", [write_labelmap_nifti, write_seg_nrrd])
def test_labelmap_of_another_shape_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match="shape"):
        write(tmp_path / "x.nii.gz", labelmap_kji=np.zeros((2, 2, 2), np.uint8), geometry=GEOMETRIES["straight"])


@pytest.mark.parametrize("label", [0, L, INF])
def test_labelmap_with_one_label_or_none_makes_a_readable_segmentation(tmp_path, label):
    labelmap = np.zeros(SIZE_IJK[::-1], dtype=np.uint8)
    labelmap[2:4, 2:4, 2:4] = label
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labelmap_kji=labelmap, geometry=GEOMETRIES["straight"])
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.seg.nrrd").to_labelmap(), labelmap)


# --- terminology -----------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda segment: segment.segment_id)
def test_every_segment_is_recognised_by_its_terminology(segment):
    entry = terminology_entry(segment.segment_id)
    assert segment_id_of(entry) == segment.segment_id
    assert entry.count("~") == 6
    other_words = entry.replace("Left", "gauche").replace("Lung", "poumon").replace("list", "liste")
    assert segment_id_of(other_words) == segment.segment_id


def test_other_terminology_is_not_recognised():
    tissue = (
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^"
    )
    assert segment_id_of(tissue + "~Anatomic codes - DICOM master list~^^~^^") is None
    lung_of_no_side = terminology_entry("left_lung").replace("SCT^7771000^Left", "^^")
    assert segment_id_of(lung_of_no_side) is None
    assert segment_id_of("") is None and segment_id_of("~~~") is None
    assert set(TERMINOLOGY) == {segment.segment_id for segment in SEGMENTS}


# --- other arrangements ----------------------------------------------------------------------------


def write_arranged(path: Path, layers: dict[str, np.ndarray], geometry: Geometry, **changes: str) -> None:
    """Write a segmentation with one layer per segment, each of value 1, segments named by a person."""
    metadata = {}
    for index, segment_id in enumerate(layers):
        metadata[f"Segment{index}_ID"] = f"Segment_{index + 1}"
        metadata[f"Segment{index}_Name"] = f"my segment {index}"
        metadata[f"Segment{index}_Layer"], metadata[f"Segment{index}_LabelValue"] = str(index), "1"
        metadata[f"Segment{index}_Tags"] = f"Some.Tag:x|TerminologyEntry:{terminology_entry(segment_id)}|"
    arrays = tuple(np.ascontiguousarray(layer, dtype=np.uint8) for layer in layers.values())
    write_layers_nrrd(path, layers_kji=arrays, geometry=geometry, metadata=metadata | changes)


def three_layers() -> dict[str, np.ndarray]:
    labelmap = make_labelmap()
    return {"infection": labelmap == INF, "right_lung": labelmap == R, "left_lung": labelmap == L}


def test_segments_are_found_by_terminology_in_any_order_and_layer(tmp_path):
    write_arranged(tmp_path / "a.seg.nrrd", three_layers(), GEOMETRIES["oblique"])
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.seg.nrrd").to_labelmap(), make_labelmap())


def test_segments_that_do_not_overlap_may_share_the_only_layer(tmp_path):
    """So Slicer saves them; the file is 3D then, and label values are any."""
    path, geometry = tmp_path / "a.seg.nrrd", GEOMETRIES["oblique"]
    labelmap = make_labelmap()
    image = geometry.to_sitk(np.array([0, 7, 5, 2], dtype=np.uint8)[labelmap])
    for index, (segment_id, value) in enumerate((("infection", 2), ("left_lung", 7), ("right_lung", 5))):
        for key, text in (("ID", segment_id), ("Layer", "0"), ("LabelValue", str(value))):
            image.SetMetaData(f"Segment{index}_{key}", text)
    sitk.WriteImage(image, str(path))
    masks = read_segmentation(str(path))  # the path as text
    assert masks.geometry.is_close_to(geometry)
    np.testing.assert_array_equal(masks.to_labelmap(), labelmap)


def test_id_wins_over_terminology_and_name(tmp_path):
    """A copy of a segment keeps its terminology; names may say anything."""
    layers = three_layers()
    write_arranged(
        tmp_path / "a.seg.nrrd",
        layers,
        GEOMETRIES["straight"],
        Segment1_ID="left_lung",
        Segment1_Name="right lung",
        Segment2_ID="right_lung",
    )
    masks = read_segmentation(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(masks.left_kji, layers["right_lung"])
    np.testing.assert_array_equal(masks.right_kji, layers["left_lung"])


def test_missing_segment_is_refused_and_those_present_are_named(tmp_path):
    layers = {key: layer for key, layer in three_layers().items() if key != "infection"}
    write_arranged(tmp_path / "a.seg.nrrd", layers, GEOMETRIES["straight"])
    with pytest.raises(InputError, match=r"a\.seg\.nrrd' has no segment 'infection'.*my segment 0.*my segment 1"):
        read_segmentation(tmp_path / "a.seg.nrrd")


def test_missing_segment_is_refused_with_the_words_to_look_for_in_slicer(tmp_path):
    layers = {key: layer for key, layer in three_layers().items() if key != "right_lung"}
    write_arranged(tmp_path / "a.seg.nrrd", layers, GEOMETRIES["straight"])
    with pytest.raises(InputError, match="choose the terminology Anatomical Structure > Lung > Right; add an empty"):
        read_segmentation(tmp_path / "a.seg.nrrd")


def test_ambiguous_segment_is_refused(tmp_path):
    twice = {"Segment1_Tags": f"TerminologyEntry:{terminology_entry('left_lung')}|"}
    write_arranged(tmp_path / "a.seg.nrrd", three_layers(), GEOMETRIES["straight"], **twice)
    with pytest.raises(InputError, match="several segments for 'left_lung'"):
        read_segmentation(tmp_path / "a.seg.nrrd")


@pytest.mark.parametrize(("layer", "message"), [("7", "in layer 7, but the file has 3"), ("first", "is no number")])
def test_impossible_layer_is_refused(tmp_path, layer, message):
    write_arranged(tmp_path / "a.seg.nrrd", three_layers(), GEOMETRIES["straight"], Segment2_Layer=layer)
    with pytest.raises(InputError, match=message):
        read_segmentation(tmp_path / "a.seg.nrrd")


# --- refusals --------------------------------------------------------------------------------------


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "nothing.nii.gz", tmp_path):
        with pytest.raises(InputError, match="does not exist or is no file"):
            read_segmentation(path)


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.95])
def test_truncated_file_is_refused(tmp_path, name, share):
    path, labelmap = tmp_path / name, np.random.default_rng(0).integers(0, 4, (40, 40, 40)).astype(np.uint8)
    write = write_seg_nrrd if name.endswith("nrrd") else write_labelmap_nifti
    write(path, labelmap_kji=labelmap, geometry=Geometry((40, 40, 40), (1.0, 1.0, 1.0)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cannot be read: it is damaged, cut short"):
        read_segmentation(path)


def test_truncated_uncompressed_nifti_is_refused(tmp_path):
    path = tmp_path / "a.nii"
    write_labelmap_nifti(tmp_path / "a.nii.gz", labelmap_kji=make_labelmap(), geometry=GEOMETRIES["straight"])
    path.write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[:-100])
    with pytest.raises(InputError, match="cut short"):
        read_segmentation(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_no_background(tmp_path, name, dtype):
    array = make_labelmap().astype(dtype)
    array[0, 0, 0], array[8, 10, 12] = np.nan, np.inf
    sitk.WriteImage(GEOMETRIES["oblique"].to_sitk(array), str(tmp_path / name))
    with pytest.raises(InputError, match=rf"{name}': 2 voxel\(s\) are NaN or infinite, .* Replace them by 0"):
        read_segmentation(tmp_path / name)


def test_nan_in_a_nifti_of_the_other_byte_order_is_found(tmp_path):
    path, array = tmp_path / "a.nii", make_labelmap().astype(np.float32)
    sitk.WriteImage(GEOMETRIES["straight"].to_sitk(array), str(path))
    raw = path.read_bytes()
    header, first = _swapped_header(raw[:348]), np.frombuffer(raw, "<f4", offset=352).astype(">f4")
    path.write_bytes(header + raw[348:352] + first.tobytes())
    np.testing.assert_array_equal(read_segmentation(path).to_labelmap(), make_labelmap())
    first[5] = np.nan
    path.write_bytes(header + raw[348:352] + first.tobytes())
    with pytest.raises(InputError, match="1 voxel"):
        read_segmentation(path)


def _swapped_header(header: bytes) -> bytes:
    """The 348 bytes of a NIfTI-1 header in the other byte order, but for fields that nobody reads here."""
    swapped = bytearray(header)
    numbers = [("i4", 0, 1), ("i2", 40, 8), ("f4", 56, 3), ("i2", 68, 4), ("f4", 76, 11), ("f4", 124, 4)]
    for kind, offset, count in [*numbers, ("i2", 252, 2), ("f4", 256, 18)]:
        values = np.frombuffer(header, f"<{kind}", count, offset)
        swapped[offset : offset + values.nbytes] = values.astype(f">{kind}").tobytes()
    return bytes(swapped)


def test_voxels_of_an_unpacked_nifti_beside_are_not_taken_for_the_packed_ones(tmp_path):
    straight = GEOMETRIES["straight"]
    write_labelmap_nifti(tmp_path / "a.nii.gz", labelmap_kji=make_labelmap(), geometry=straight)
    sitk.WriteImage(straight.to_sitk(np.minimum(make_labelmap(), 2)), str(tmp_path / "a.nii"))
    with pytest.raises(InputError, match=r"a\.nii\.gz': 'a\.nii' lies beside it.*Move one"):
        read_segmentation(tmp_path / "a.nii.gz")
    assert not read_segmentation(tmp_path / "a.nii").infection_kji.any()


def test_text_file_is_refused(tmp_path):
    (tmp_path / "notes.seg.nrrd").write_text("no image at all")
    with pytest.raises(InputError, match=r"notes\.seg\.nrrd.*not an image"):
        read_segmentation(tmp_path / "notes.seg.nrrd")


@pytest.mark.parametrize("value", [4, 255, -1000, 0.5])
def test_foreign_label_values_are_named(tmp_path, value):
    array = make_labelmap().astype(np.float32 if isinstance(value, float) else np.int16)
    array[5, 5, 5] = value
    sitk.WriteImage(GEOMETRIES["straight"].to_sitk(array), str(tmp_path / "ct.nii.gz"))
    with pytest.raises(InputError, match=rf"label values other than 0, 1, 2, 3 \(among them {value:g}\)"):
        read_segmentation(tmp_path / "ct.nii.gz")


def test_colour_image_is_refused(tmp_path):
    rgb = np.zeros((*SIZE_IJK[::-1], 3), dtype=np.uint8)
    sitk.WriteImage(GEOMETRIES["straight"].to_sitk(rgb), str(tmp_path / "rgb.mha"))
    with pytest.raises(InputError, match="3 values per voxel and no segments"):
        read_segmentation(tmp_path / "rgb.mha")


def test_four_dimensions_are_refused(tmp_path):
    image = GEOMETRIES["straight"].to_sitk(make_labelmap())
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "series.nii.gz"))
    with pytest.raises(InputError, match="has 4 dimensions, not 3"):
        read_segmentation(tmp_path / "series.nii.gz")


def test_float_labelmap_of_whole_numbers_is_read(tmp_path):
    image = GEOMETRIES["oblique"].to_sitk(make_labelmap().astype(np.float32))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.nrrd").to_labelmap(), make_labelmap())


@pytest.mark.parametrize("stored", [np.uint8, np.int16, np.float32])
def test_labelmap_stored_with_a_scale_is_read(tmp_path, stored):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(make_labelmap().T.astype(np.float64), np.diag([0.7, 1.3, 2.9, 1.0]))
    image.set_data_dtype(stored)  # whole numbers are then scaled to the range of their type
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.nii.gz").to_labelmap(), make_labelmap())


def test_segments_of_many_organs_beside_do_not_matter(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_seg_nrrd(path, labelmap_kji=make_labelmap(), geometry=GEOMETRIES["oblique"])
    header, voxels = path.read_bytes().split(b"\n\n", 1)
    organ = "\nSegment{0}_ID:=organ{0}\nSegment{0}_Layer:=0\nSegment{0}_LabelValue:={0}\nSegment{0}_Tags:=" + 600 * "t"
    header += "".join(organ.format(number) for number in range(3, 120)).encode()
    path.write_bytes(header + b"\n\n" + voxels)
    np.testing.assert_array_equal(read_segmentation(path).to_labelmap(), make_labelmap())


@pytest.mark.parametrize(("name", "at"), [("s.seg.nrrd", -6), ("s.nrrd", -6), ("s.mha", -2)])
def test_segmentation_that_does_not_fit_its_checksum_is_refused(tmp_path, name, at):
    labelmap, grid = np.zeros((8, 9, 10), dtype=np.uint8), Geometry((10, 9, 8), (1.0, 1.0, 1.0))
    labelmap[2:6, 2:6, 2:6] = 1
    path = tmp_path / name
    if name == "s.seg.nrrd":
        write_seg_nrrd(path, labelmap_kji=labelmap, geometry=grid)
    else:
        sitk.WriteImage(grid.to_sitk(labelmap), str(path), True)
    assert np.count_nonzero(read_segmentation(path).left_kji) == 64
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1  # in the checksum, which ends the compressed voxels: ITK itself does not look at it
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged, cut short"):
        read_segmentation(path)
