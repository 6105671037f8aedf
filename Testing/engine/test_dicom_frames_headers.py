"""Headers of multi-frame CT: where a frame's values may stand, and which of them are refused, with file and frame."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.readers import dicom_frames
from CovidSegLib.volume import read_ct
from helpers_ct_files import tiny_hu, write_series
from helpers_multi_frame import GROUPS, write_enhanced

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten single slices."""
    return write_series(tmp_path / "s", tiny_hu())


def test_values_that_stand_in_the_data_set_as_in_single_slices_are_used(tmp_path: Path, files: list[Path]) -> None:
    for number, file in enumerate(files):
        source = pydicom.dcmread(file)

        def edit(ds: Any, source: Any = source) -> None:
            for group, keywords in GROUPS.items():
                delattr(ds.PerFrameFunctionalGroupsSequence[0], group)
                for keyword in keywords:
                    setattr(ds, keyword, source[keyword].value)

        write_enhanced(tmp_path / "m" / f"{number}.dcm", [file], edit=edit)
    ct, slices = read_ct(tmp_path / "m"), read_ct(tmp_path / "s")
    np.testing.assert_array_equal(ct.hu_kji, slices.hu_kji)
    np.testing.assert_allclose(ct.geometry.ijk_to_lps, slices.geometry.ijk_to_lps)


def test_file_without_groups_that_all_frames_share_is_read(tmp_path: Path, files: list[Path]) -> None:
    def edit(ds: Any) -> None:
        del ds.SharedFunctionalGroupsSequence

    np.testing.assert_array_equal(read_ct(write_enhanced(tmp_path / "m.dcm", files, edit=edit)).hu_kji, tiny_hu())


def test_stacks_of_two_files_are_not_taken_for_two_in_one(tmp_path: Path, files: list[Path]) -> None:
    for stack, part in (("1", files[:4]), ("2", files[4:])):

        def edit(ds: Any, stack: str = stack) -> None:
            for frame in ds.PerFrameFunctionalGroupsSequence:
                frame.FrameContentSequence[0].StackID = stack

        write_enhanced(tmp_path / "m" / f"{stack}.dcm", part, edit=edit)
    np.testing.assert_array_equal(read_ct(tmp_path / "m").hu_kji, tiny_hu())


@pytest.mark.parametrize("keyword", ["BodyPartExamined", "ContrastBolusAgent", "ReconstructionDiameter"])
def test_what_the_data_set_says_of_all_frames_is_kept(tmp_path: Path, files: list[Path], keyword: str) -> None:
    value: Any = 180 if keyword == "ReconstructionDiameter" else "ABDOMEN"
    tags: dict[str, Any] = {keyword: value}
    header = dicom_frames.multi_frame_header(write_enhanced(tmp_path / "m.dcm", files, **tags))
    assert header is not None
    for frame in dicom_frames.headers_of_frames(header, label="m.dcm"):
        said = {
            "BodyPartExamined": frame.body_part,
            "ContrastBolusAgent": frame.contrast,
            "ReconstructionDiameter": frame.reconstruction_diameter_mm,
        }
        assert said[keyword] == value
        assert frame.body_part == ("ABDOMEN" if keyword == "BodyPartExamined" else "Chest")


def test_two_frames_in_a_file_for_single_slices_are_refused_as_that(tmp_path: Path, files: list[Path]) -> None:
    for n in range(5):
        path = tmp_path / "m" / f"{n}.dcm"
        write_enhanced(path, files[2 * n : 2 * n + 2], SOPClassUID=pydicom.uid.CTImageStorage)
    with pytest.raises(InputError, match="multi-frame DICOM that is no Enhanced CT"):
        read_ct(tmp_path / "m")


def test_more_frames_described_than_stated_are_refused(tmp_path: Path, files: list[Path]) -> None:
    path = write_enhanced(tmp_path / "m.dcm", files, NumberOfFrames=9)
    with pytest.raises(InputError, match=r"m\.dcm states 9 frames and describes 10"):
        read_ct(path)


def _edited_text(path: Path, old: bytes, new: bytes) -> None:
    """Replace a value in a file by another of its length, which pydicom would not write."""
    content = path.read_bytes()
    assert len(old) == len(new) and content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("value", [b"nan   ", b"inf   ", b"-inf  "])
@pytest.mark.parametrize(("keyword", "index"), [("RescaleSlope", 0), ("RescaleIntercept", 1)])
def test_rescale_that_is_not_finite_is_refused_with_its_frame(
    tmp_path: Path, files: list[Path], keyword: str, index: int, value: bytes
) -> None:
    def edit(ds: Any) -> None:
        setattr(ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0], keyword, "7.5625")

    assert GROUPS["PixelValueTransformationSequence"][index] == keyword
    path = write_enhanced(tmp_path / "m.dcm", files, edit=edit)
    _edited_text(path, b"7.5625", value)
    with pytest.raises(InputError, match=r"frame 3 of m\.dcm has no usable rescale slope or intercept"):
        read_ct(path)


def test_unusable_rescale_makes_its_own_series_alone_unusable(tmp_path: Path, files: list[Path]) -> None:
    def edit(ds: Any) -> None:
        ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleSlope = 0

    write_enhanced(tmp_path / "s" / "m.dcm", files, edit=edit, SeriesInstanceUID="1.2.9", SeriesNumber=9)
    np.testing.assert_array_equal(read_ct(tmp_path / "s").hu_kji, tiny_hu())
    with pytest.raises(InputError, match=r"series 9: .* cannot be used: frame 3 of m\.dcm has no usable rescale"):
        read_ct(tmp_path / "s", series="9")


def test_position_that_is_not_finite_is_none(tmp_path: Path, files: list[Path]) -> None:
    def edit(ds: Any) -> None:
        position = ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
        position.ImagePositionPatient = [-30, 12.5, "-114.125"]

    path = write_enhanced(tmp_path / "m.dcm", files, edit=edit)
    _edited_text(path, b"-114.125", b"nan     ")
    with pytest.raises(InputError, match=r"m\.dcm \(frame 4\) lacks position"):
        read_ct(path)


def test_frames_that_are_not_of_the_stated_size_are_refused(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_enhanced(tmp_path / "m.dcm", files)
    monkeypatch.setattr(dicom_frames, "_decoded", lambda *_, **__: iter(np.zeros((10, 12, 14, 3))))
    with pytest.raises(InputError, match=r"m\.dcm \(frame 1, z = -120 mm\) is not one grey image"):
        read_ct(path)


def test_frame_without_pixels_is_named(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_enhanced(tmp_path / "m.dcm", files)
    monkeypatch.setattr(dicom_frames, "_decoded", lambda *_, **__: iter(np.zeros((8, 12, 14))))
    with pytest.raises(InputError, match=r"m\.dcm \(frame (9, z = -104|10, z = -102) mm\) has no pixels"):
        read_ct(path)


@pytest.mark.parametrize("error", [OSError("the share is gone"), MemoryError()])
@pytest.mark.parametrize(("module", "name"), [("pydicom", "dcmread"), ("pydicom.pixels", "iter_pixels")])
def test_file_that_cannot_be_reached_is_not_called_damaged(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, module: str, name: str, error: Exception
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    path = write_enhanced(tmp_path / "m.dcm", files)
    headers = dicom_frames.headers_of_frames
    header = dicom_frames.multi_frame_header(path)
    assert header is not None
    frames: Any = list(enumerate(headers(header, label="m.dcm")))
    monkeypatch.setattr(f"{module}.{name}", fail)
    with pytest.raises(type(error)) as caught:
        if name == "iter_pixels":
            list(dicom_frames.frame_values(frames, label="m.dcm"))
        else:
            headers(header, label="m.dcm")
    assert caught.value is error
    if name == "dcmread":
        with pytest.raises(type(error)):
            dicom_frames.multi_frame_header(path)


def test_deviation_from_the_standard_is_read_without_python_warnings(tmp_path: Path, files: list[Path]) -> None:
    path = write_enhanced(tmp_path / "m.dcm", files, SeriesInstanceUID="1.2.826.9.77")
    _edited_text(path, b"1.2.826.9.77", b"1.2.826.0.07")  # some writers pad the parts of UIDs
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())
    assert [str(warning.message) for warning in caught] == []


def test_undecodable_frames_are_named_with_the_first_line_of_the_reason(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("Unable to decode: \n\tsome package\n\tanother")

    path = write_enhanced(tmp_path / "m.dcm", files)
    monkeypatch.setattr("pydicom.pixels.iter_pixels", fail)
    with pytest.raises(InputError, match=r"the frames in m\.dcm cannot be decoded \(Unable to decode\)\. Copy it"):
        read_ct(path)
