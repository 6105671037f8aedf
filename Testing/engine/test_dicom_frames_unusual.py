"""Multi-frame CT that keeps to the standard in unusual ways, or just misses it: read all the same, or named rightly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.errors import InputError
from CovidSegLib.volume import list_series, read_ct
from helpers_ct_files import tiny_hu, write_series
from helpers_multi_frame import GROUPS, group_of, write_enhanced

pydicom = pytest.importorskip("pydicom")


def frames_of(ds: Any) -> list[Any]:
    """Return the items that describe a data set's frames."""
    return list(ds.PerFrameFunctionalGroupsSequence)


def jpeg_2000(file: Path) -> bytes:
    """Return the stored values of a slice as a JPEG 2000 codestream, as GDCM makes it."""
    ds, path = pydicom.dcmread(file), file.with_suffix(".j2k.dcm")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(np.frombuffer(ds.PixelData, np.int16).reshape(1, ds.Rows, ds.Columns)))
    return next(pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def use_extended_offset_table(ds: Any) -> None:
    ds.compress(pydicom.uid.RLELossless, encapsulate_ext=True, generate_instance_uid=False)


def leave_group_empty(ds: Any) -> None:
    """Leave a functional group that all frames share empty in each of them."""
    for frame in frames_of(ds):
        frame.PixelMeasuresSequence = []


def state_two_diameters(ds: Any) -> None:
    ds.SharedFunctionalGroupsSequence[0].CTReconstructionSequence = group_of(ReconstructionDiameter=[180, 200])


def state_negative_distance(ds: Any) -> None:
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = -2.0


def leave_out_the_anatomy(ds: Any) -> None:
    del ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence


@pytest.mark.parametrize(
    "edit",
    [
        *(use_extended_offset_table, leave_group_empty, state_two_diameters, state_negative_distance),
        leave_out_the_anatomy,
    ],
)
def test_it_is_read(tmp_path: Path, edit: Callable[[Any], None]) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    ct = read_ct(write_enhanced(tmp_path / "m.dcm", files, shared=["PixelMeasuresSequence"], edit=edit))
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    np.testing.assert_allclose(ct.geometry.spacing_ijk_mm, (0.75, 0.5, 2.0))
    assert (ct.series, ct.warnings) == ("3: Chest 2.0 soft", ())


@pytest.mark.parametrize("count", [1, 4, 7, 12, 100])
def test_zeros_after_its_end_are_passed_over(tmp_path: Path, count: int) -> None:
    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()))
    path.write_bytes(path.read_bytes() + bytes(count))
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


def test_jpeg_2000_frames_are_read(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    files = write_series(tmp_path / "s", tiny_hu())

    def edit(ds: Any) -> None:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        ds.PixelData = pydicom.encaps.encapsulate([jpeg_2000(file) for file in files])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True

    np.testing.assert_array_equal(read_ct(write_enhanced(tmp_path / "m.dcm", files, edit=edit)).hu_kji, tiny_hu())


def test_what_is_known_of_the_series_is_that_of_its_slices(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", tiny_hu(), SeriesDescription="Thörax ", SpecificCharacterSet="ISO_IR 100")
    path = write_enhanced(tmp_path / "m.dcm", files)
    assert list_series(path) == list_series(tmp_path / "s")


@pytest.mark.parametrize("stated", ["LOCALIZER", ["LOCALIZER"], ["DERIVED", "PRIMARY", "LOCALIZER", "NONE"]])
def test_localizer_is_known_by_however_many_values_its_frame_type_has(tmp_path: Path, stated: Any) -> None:
    def edit(ds: Any) -> None:
        for frame in frames_of(ds):
            frame.CTImageFrameTypeSequence = group_of(FrameType=stated)

    files = write_series(tmp_path / "s", tiny_hu())
    with pytest.raises(InputError, match=r"10 axial slices, localizer\)"):
        read_ct(write_enhanced(tmp_path / "m.dcm", files, edit=edit))


@pytest.mark.parametrize("stated", [None, 0.5, [0.5, 0.75, 1.0]])
def test_pixel_spacing_that_is_not_two_numbers_is_named(tmp_path: Path, stated: Any) -> None:
    def edit(ds: Any) -> None:
        frames_of(ds)[3].PixelMeasuresSequence = group_of(PixelSpacing=stated)

    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()), edit=edit)
    with pytest.raises(InputError, match=r"m\.dcm \(frame 4, z = -114 mm\) lacks position or pixel spacing"):
        read_ct(path)


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("PlanePositionSequence", r"m\.dcm \(frame 1\) lacks position or pixel spacing"),
        ("PlaneOrientationSequence", "no slice position or orientation in the header"),
        ("PixelMeasuresSequence", r"m\.dcm \(frame 1, z = -120 mm\) lacks position or pixel spacing"),
    ],
)
def test_functional_group_that_is_nowhere_is_named(tmp_path: Path, group: str, message: str, *, empty: bool) -> None:
    assert group in GROUPS

    def edit(ds: Any) -> None:
        for frame in frames_of(ds):
            delattr(frame, group)
            if empty:
                setattr(frame, group, [])

    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()), edit=edit)
    with pytest.raises(InputError, match=message):
        read_ct(path)


@pytest.mark.parametrize("cut_bytes", [1, 1000])
def test_file_cut_short_is_named_as_that(tmp_path: Path, cut_bytes: int) -> None:
    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()))
    path.write_bytes(path.read_bytes()[:-cut_bytes])
    with pytest.raises(InputError, match=r"m\.dcm is truncated or corrupt"):
        read_ct(path)


def test_header_that_pydicom_cannot_read_is_left_to_gdcm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_arguments: Any, **_options: Any) -> None:
        raise ValueError("no header")

    path = write_enhanced(tmp_path / "m.dcm", write_series(tmp_path / "s", tiny_hu()))
    monkeypatch.setattr(pydicom, "dcmread", damaged)
    with pytest.raises(InputError, match=r"the frames' headers in m\.dcm are damaged"):
        read_ct(path)


def test_series_of_single_slices_is_read_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    monkeypatch.setattr(
        "CovidSegLib.readers.dicom_frames.import_module", lambda name: pytest.fail(f"{name} was imported")
    )
    np.testing.assert_array_equal(read_ct(files[0].parent).hu_kji, tiny_hu())
