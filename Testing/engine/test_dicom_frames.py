"""Multi-frame DICOM: the same volume as from single slices, and what is no single even volume refused by its frame."""

from __future__ import annotations

import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.volume import CTVolume, list_series, read_ct
from helpers_ct_files import OBLIQUE, tiny_hu, write_series, zip_files
from helpers_multi_frame import GROUPS, group_of, write_enhanced, write_legacy

pydicom = pytest.importorskip("pydicom")

SHUFFLED = (7, 2, 9, 0, 4, 1, 8, 3, 6, 5)


def assert_same_volume(ct: CTVolume, other: CTVolume) -> None:
    """Check that two CTs have the same voxels, bit for bit, on the same grid."""
    assert ct.hu_kji.dtype == other.hu_kji.dtype
    np.testing.assert_array_equal(ct.hu_kji, other.hu_kji)
    assert ct.geometry.size_ijk == other.geometry.size_ijk
    np.testing.assert_allclose(ct.geometry.ijk_to_lps, other.geometry.ijk_to_lps, rtol=0, atol=1e-6)


# --- the same as single slices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column"),
    [(OBLIQUE[0::3], OBLIQUE[1::3]), ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0))],
)
@pytest.mark.parametrize("step_sign", [1, -1])
def test_legacy_converted_file_is_the_volume_of_its_slices(
    tmp_path: Path, row: Any, column: Any, step_sign: int
) -> None:
    step = tuple(2.0 * step_sign * np.cross(row, column))
    files = write_series(tmp_path / "s", tiny_hu(), row_lps=row, column_lps=column, step_lps_mm=step)
    ct = read_ct(write_legacy(tmp_path / "m.dcm", files))
    assert_same_volume(ct, read_ct(tmp_path / "s"))
    assert ct.name == "m"
    assert ct.series is not None and ct.series.startswith("5: Chest 2.0 soft")


def test_enhanced_file_is_the_volume_of_its_slices_in_any_order_with_a_rescale_of_each(tmp_path: Path) -> None:
    files = write_series(
        tmp_path / "s",
        tiny_hu(),
        row_lps=OBLIQUE[0::3],
        column_lps=OBLIQUE[1::3],
        slopes=[1, 2, 3] * 3 + [1],
        intercepts=[-1024, 0, -1200, -6, -60] * 2,
    )
    ct = read_ct(write_enhanced(tmp_path / "m.dcm", [files[k] for k in SHUFFLED]))
    np.testing.assert_allclose(ct.hu_kji, tiny_hu(), atol=1.5)
    assert_same_volume(ct, read_ct(tmp_path / "s"))
    assert (ct.series, ct.warnings) == ("3: Chest 2.0 soft", ())


def test_fractional_rescale_of_one_frame_keeps_its_fractions(tmp_path: Path) -> None:
    slopes, intercepts = [1.0] * 4 + [0.3] + [1.0] * 5, [-1024.0] * 4 + [-10.25] + [-1024.0] * 5
    files = write_series(tmp_path / "s", tiny_hu(), slopes=slopes, intercepts=intercepts)
    ct = read_ct(write_enhanced(tmp_path / "m.dcm", files))
    assert ct.hu_kji.dtype == np.float32
    assert_same_volume(ct, read_ct(tmp_path / "s"))


def test_values_beyond_int16_are_kept(tmp_path: Path) -> None:
    hu_kji = tiny_hu().astype(np.int32) * 100
    files = write_series(tmp_path / "s", hu_kji, slopes=[100.0] * 10, intercepts=[0.0] * 10)
    ct = read_ct(write_enhanced(tmp_path / "m.dcm", files))
    np.testing.assert_array_equal(ct.hu_kji, hu_kji)
    assert_same_volume(ct, read_ct(tmp_path / "s"))


def test_groups_of_a_frame_go_before_those_of_all(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", tiny_hu(), intercepts=[-1024.0] * 6 + [-1000.0] + [-1024.0] * 3)

    def edit(ds: Any) -> None:
        ds.PerFrameFunctionalGroupsSequence[6].PixelValueTransformationSequence = group_of(
            RescaleSlope=1, RescaleIntercept=-1000
        )

    path = write_enhanced(tmp_path / "m.dcm", files, shared=[*GROUPS][1:], edit=edit)
    assert_same_volume(read_ct(path), read_ct(tmp_path / "s"))


def test_exact_copy_of_a_file_is_left_out(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "m" / "ct.dcm", write_series(tmp_path / "m", tiny_hu()))
    for file in path.parent.glob("IM*.dcm"):
        file.unlink()
    path.with_name("ct (1).dcm").write_bytes(path.read_bytes())
    ct = read_ct(path.parent)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.warnings == ("10 slice(s) were exact copies of others and were left out.",)


@pytest.mark.parametrize("stated", [True, False])
def test_frames_without_a_rescale_take_that_of_the_file_or_none(tmp_path: Path, *, stated: bool) -> None:
    def edit(ds: Any) -> None:
        for frame in ds.PerFrameFunctionalGroupsSequence:
            del frame.PixelValueTransformationSequence
        if stated:
            ds.RescaleSlope, ds.RescaleIntercept = 1, -1024

    files = write_series(tmp_path / "s", tiny_hu(), intercepts=[-1024.0 if stated else 0.0] * 10)
    assert_same_volume(read_ct(write_enhanced(tmp_path / "m.dcm", files, edit=edit)), read_ct(tmp_path / "s"))


def test_bits_that_are_not_stored_do_not_count(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", tiny_hu(), BitsStored=12, HighBit=11)

    def edit(ds: Any) -> None:
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) ^ np.uint16(0xA000)).tobytes()

    for file in files:
        ds = pydicom.dcmread(file)
        edit(ds)
        ds.save_as(file)
    ct = read_ct(write_enhanced(tmp_path / "m.dcm", files))
    assert_same_volume(ct, read_ct(tmp_path / "s"))
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())


@pytest.mark.parametrize("where", ["file", "folder", "zip", "no suffix"])
def test_file_folder_and_zip_of_a_multi_frame_ct_are_read(tmp_path: Path, where: str) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    path = write_enhanced(tmp_path / "case" / ("IM1" if where == "no suffix" else "m.dcm"), files)
    if where == "folder":
        path = path.parent
    elif where == "zip":
        path = zip_files(tmp_path / "case.zip", {"a/m.dcm": path})
    ct = read_ct(path)
    assert_same_volume(ct, read_ct(tmp_path / "s"))
    assert "secret" not in repr((ct, list_series(path))).lower()


@pytest.mark.parametrize("syntax", ["RLELossless", "DeflatedExplicitVRLittleEndian", "ImplicitVRLittleEndian"])
def test_compressed_and_deflated_frames_are_read(tmp_path: Path, syntax: str) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    path = write_enhanced(tmp_path / "m.dcm", [files[k] for k in SHUFFLED])
    ds, uid = pydicom.dcmread(path), getattr(pydicom.uid, syntax)
    if uid.is_encapsulated:
        ds.compress(uid, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = uid
    pydicom.dcmwrite(path, ds, implicit_vr=uid.is_implicit_VR, little_endian=True, force_encoding=True)
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize("sizes", [(4, 6), (1,) * 10])
def test_files_that_share_a_series_are_one_volume(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    ends = np.cumsum(sizes)
    for number, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        write_enhanced(tmp_path / "m" / f"{number}.dcm", files[end - size : end])
    assert_same_volume(read_ct(tmp_path / "m"), read_ct(tmp_path / "s"))


def test_number_of_its_own_on_every_frame_makes_no_stacks(tmp_path: Path) -> None:
    def edit(ds: Any) -> None:
        for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
            frame.FrameContentSequence[0].TemporalPositionIndex = number

    files = write_series(tmp_path / "s", tiny_hu())
    np.testing.assert_array_equal(read_ct(write_enhanced(tmp_path / "m.dcm", files, edit=edit)).hu_kji, tiny_hu())


def test_one_frame_at_a_time_is_held(tmp_path: Path) -> None:
    hu_kji = tiny_hu(shape_kji=(40, 128, 128))
    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", hu_kji))
    read_ct(path)  # imports
    tracemalloc.start()
    read_ct(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * hu_kji.nbytes


# --- which series, what is warned of -------------------------------------------------------------------------------


def test_series_with_most_slices_is_taken_among_files_of_both_kinds(tmp_path: Path) -> None:
    thick, thin = tiny_hu(), tiny_hu(shape_kji=(12, 12, 14), seed=1)
    write_series(tmp_path / "all" / "1", thick, number=1)
    files = write_series(tmp_path / "s", thin, number=2)
    write_enhanced(tmp_path / "all" / "2.dcm", files)
    ct = read_ct(tmp_path / "all")
    np.testing.assert_array_equal(ct.hu_kji, thin)
    (warning,) = ct.warnings
    assert warning.startswith("2 series found; series 2: Chest 2.0 soft (12 axial slices) was taken.")
    np.testing.assert_array_equal(read_ct(tmp_path / "all", series="1").hu_kji, thick)


def test_file_whose_frames_show_the_chest_is_taken_before_a_larger_one(tmp_path: Path) -> None:
    def edit(ds: Any) -> None:
        ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeMeaning = "Head"

    for name, count, change in (("head", 12, edit), ("other", 10, None)):
        hu_kji = tiny_hu(shape_kji=(count, 12, 14))
        files = write_series(tmp_path / name, hu_kji, SeriesDescription="2.0 soft")
        write_enhanced(tmp_path / "all" / f"{name}.dcm", files, edit=change)
    assert read_ct(tmp_path / "all").geometry.size_ijk == (14, 12, 10)


def test_localizer_frame_in_the_same_file_is_left_out_with_a_warning(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    scout = write_series(tmp_path / "scout", tiny_hu(shape_kji=(1, 12, 14)), column_lps=(0.0, 0.0, -1.0))
    ct = read_ct(write_enhanced(tmp_path / "m.dcm", [*scout, *files]))
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.warnings == ("1 image(s) of the series have another size or orientation and were left out.",)


def test_contrast_and_narrow_field_are_warned_of_wherever_they_are_stated(tmp_path: Path) -> None:
    def edit(ds: Any) -> None:
        ds.ContrastBolusAgentSequence = group_of(CodeMeaning="Iodine")
        ds.SharedFunctionalGroupsSequence[0].CTReconstructionSequence = group_of(ReconstructionDiameter=180)

    files = write_series(tmp_path / "s", tiny_hu(), ContrastBolusAgent="Iodine", ReconstructionDiameter=180)
    legacy = read_ct(write_legacy(tmp_path / "l.dcm", files))
    for file in files:
        ds = pydicom.dcmread(file)
        del ds.ContrastBolusAgent, ds.ReconstructionDiameter
        ds.save_as(file)
    enhanced = read_ct(write_enhanced(tmp_path / "m.dcm", files, edit=edit))
    assert enhanced.warnings == legacy.warnings
    assert [text[:14] for text in enhanced.warnings] == ["Contrast agent", "Narrow field o"]


# --- refused -------------------------------------------------------------------------------------------------------


def frame_edit(number: int, group: str, **values: Any) -> Callable[[Any], None]:
    """Return an edit of one functional group of one frame."""

    def edit(ds: Any) -> None:
        for keyword, value in values.items():
            setattr(ds.PerFrameFunctionalGroupsSequence[number - 1][group].value[0], keyword, value)

    return edit


def content_edit(keyword: str, *marks: Any) -> Callable[[Any], None]:
    """Return an edit that marks the halves of a file's frames as two parts."""

    def edit(ds: Any) -> None:
        for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
            setattr(frame.FrameContentSequence[0], keyword, marks[number // 5])

    return edit


def position_edit(number: int, *position: float) -> Callable[[Any], None]:
    """Return an edit of one frame's position."""
    return frame_edit(number, "PlanePositionSequence", ImagePositionPatient=list(position))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (position_edit(6, -30, 12.5, -109.97), r"unevenly spaced: m\.dcm \(frame 6, z = -109\.97 mm\) lies 2\.03 mm"),
        (position_edit(6, -30, 12.5, -112), r"two slices at one position: m\.dcm \(frame [56].*frame [56]"),
        (position_edit(6, -29, 12.5, -110), r"sheared .*m\.dcm \(frame 6, z = -110 mm\) lies 1 mm aside"),
        (position_edit(10, -30, 12.5, -100), r"1 slice\(s\) missing between m\.dcm \(frame 9.*frame 10"),
        (frame_edit(4, "PlanePositionSequence", ImagePositionPatient=None), r"\(frame 4\) lacks position"),
        (frame_edit(4, "PlanePositionSequence", ImagePositionPatient=[-30, 12.5]), r"\(frame 4\) lacks position"),
        (
            frame_edit(7, "PlaneOrientationSequence", ImageOrientationPatient=[0.98, 0.199, 0, -0.199, 0.98, 0]),
            r"frame 7.* is turned against the others",
        ),
        (frame_edit(7, "PixelMeasuresSequence", PixelSpacing=[0.5, 0.8]), "frame 7.* has another pixel spacing"),
        (frame_edit(7, "PixelValueTransformationSequence", RescaleSlope=0), "frame 7 of m.dcm has no usable rescale"),
        (content_edit("StackID", "1", "2"), "2 stacks or phases in one file, export one of them as single slices"),
        (
            content_edit("TemporalPositionIndex", 1, 2),
            "2 stacks or phases in one file, export one of them as single slices",
        ),
        (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), "states 10 frames and describes 9"),
        (lambda ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME1"), r"inverted grey values \(MONOCHROME1\)"),
        (lambda ds: setattr(ds, "Modality", "PT"), "PT, not CT"),
        (lambda ds: setattr(ds, "SeriesDescription", "Topogram"), "localizer"),
        (frame_edit(1, "CTImageFrameTypeSequence", FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
        (lambda ds: setattr(ds, "SOPClassUID", pydicom.uid.CTImageStorage), "multi-frame DICOM that is no Enhanced CT"),
    ],
)
def test_frames_that_are_no_straight_even_ct_are_refused(
    tmp_path: Path, edit: Callable[[Any], None], message: str
) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    path = write_enhanced(tmp_path / "m.dcm", files, edit=edit)
    for given in (path, zip_files(tmp_path / "m.zip", {"m.dcm": path})):
        with pytest.raises(InputError, match=message) as caught:
            read_ct(given)
        assert "secret" not in str(caught.value).lower()


def test_colour_frames_are_refused(tmp_path: Path) -> None:
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8}
    bits = {"BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelData": bytes(10 * 12 * 14 * 3)}
    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()), **colour, **bits)
    with pytest.raises(InputError, match="colour images"):
        read_ct(path)


def test_gantry_tilt_and_seven_frames_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", tiny_hu(), step_lps_mm=(0.0, 0.54, 2.0))
    with pytest.raises(InputError, match=r"sheared \(gantry tilt\?\): slice m\.dcm \(frame 2, z = -118 mm\)"):
        read_ct(write_enhanced(tmp_path / "m.dcm", files))
    with pytest.raises(InputError, match="fewer than 8 slices"):
        read_ct(write_enhanced(tmp_path / "m.dcm", files[:7]))


def test_two_volumes_in_one_series_are_refused_with_both_files(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    write_enhanced(tmp_path / "m" / "a.dcm", files)
    write_enhanced(tmp_path / "m" / "b.dcm", files, ContentTime="120000")
    with pytest.raises(InputError, match=r"two slices at one position: a\.dcm \(frame 1, .* b\.dcm \(frame 1,"):
        read_ct(tmp_path / "m")


@pytest.mark.parametrize("keep", [0.05, 0.4, 0.9, 0.99])
def test_truncated_file_is_refused_and_named(tmp_path: Path, keep: float) -> None:
    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match=r"m\.dcm"):
        read_ct(path)


def test_frames_that_cannot_be_decoded_are_refused(tmp_path: Path) -> None:
    def edit(ds: Any) -> None:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51no codestream"] * 10)
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True

    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()), edit=edit)
    with pytest.raises(InputError, match=r"m\.dcm (cannot be decoded|is truncated or corrupt)|m\.dcm cannot be"):
        read_ct(path)


@pytest.mark.parametrize("module", ["pydicom", "pydicom.pixels"])
def test_without_pydicom_3_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    paths = [write_enhanced(tmp_path / "m.dcm", files), write_enhanced(tmp_path / "one" / "m.dcm", files[:1])]
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    for path in paths:
        with pytest.raises(InputError, match=r"needs pydicom 3: pip install 'covidseg\[dicom\]', or export it as sing"):
            read_ct(path)
    np.testing.assert_array_equal(read_ct(tmp_path / "s").hu_kji, tiny_hu())


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_series_converted_to_one_file_is_the_same_volume(tmp_path: Path, data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "ct" / "covid_p001_dicom.zip") as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        archive.extractall(tmp_path / "all", names)
    sources = [pydicom.dcmread(tmp_path / "all" / name, stop_before_pixels=True) for name in names]
    feet_first = np.argsort([float(source.ImagePositionPatient[2]) for source in sources])[:24]
    files = [(tmp_path / "all" / names[n]).rename(tmp_path / f"{n}.dcm") for n in feet_first]
    ct = read_ct(write_legacy(tmp_path / "m" / "m.dcm", files))
    assert_same_volume(ct, read_ct(zip_files(tmp_path / "s.zip", {file.name: file for file in files})))
