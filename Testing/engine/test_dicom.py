"""DICOM folders: order, grid, rescale, and every broken series refused with its slice named."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.readers.dicom_elements import lengths_fit
from CovidSegLib.volume import read_ct
from helpers_ct_files import OBLIQUE, edit_slice, tiny_hu, write_series

pydicom = pytest.importorskip("pydicom")

ROW, COLUMN = OBLIQUE[0::3], OBLIQUE[1::3]


def itk_geometry(folder: Path) -> Geometry:
    """Return the grid that ITK (and so Slicer) builds from a series."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return Geometry.from_sitk(sitk.ReadImage(names))


def write_report(path: Path) -> None:
    """Write a DICOM file that is no image."""
    report = pydicom.Dataset()
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    report.Modality = "SR"
    pydicom.dcmwrite(path, report, enforce_file_format=True)


def test_slices_are_ordered_by_position_whatever_their_names(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", tiny_hu())
    ct = read_ct(tmp_path / "p1")
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.hu_kji.dtype == np.int16
    assert ct.geometry.size_ijk == (14, 12, 10)
    np.testing.assert_allclose(ct.geometry.spacing_ijk_mm, (0.75, 0.5, 2.0))
    np.testing.assert_allclose(ct.geometry.origin_lps_mm, (-30.0, 12.5, -120.0))
    np.testing.assert_allclose(ct.geometry.direction_lps, np.eye(3).ravel())
    assert (ct.name, ct.series, ct.warnings) == ("p1", "3: Chest 2.0 soft", ())


def test_slices_stored_head_first_come_out_feet_first(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(), step_lps_mm=(0.0, 0.0, -2.0))
    ct = read_ct(tmp_path)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu()[::-1])
    np.testing.assert_allclose(ct.geometry.origin_lps_mm, (-30.0, 12.5, -138.0))


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (ROW, COLUMN),
        ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        ((1.0, 0, 0), (0, -1.0, 0)),
    ],
)
def test_oblique_flipped_and_prone_series_have_itks_grid(tmp_path: Path, row: Any, column: Any) -> None:
    write_series(tmp_path, tiny_hu(), row_lps=row, column_lps=column)
    ct = read_ct(tmp_path)
    expected = itk_geometry(tmp_path)
    np.testing.assert_allclose(ct.geometry.ijk_to_lps, expected.ijk_to_lps, atol=1e-6)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())


def test_rescale_that_differs_between_slices_is_right(tmp_path: Path) -> None:
    hu_kji = tiny_hu() // 6 * 6  # whole steps of every slope
    write_series(tmp_path, hu_kji, slopes=[1, 2, 3] * 3 + [1], intercepts=[-1024, 0, -1200, -6, -60] * 2)
    stored = [pydicom.dcmread(file) for file in sorted(tmp_path.iterdir())]
    by_place = {
        float(ds.ImagePositionPatient[2]): ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept for ds in stored
    }
    expected = np.stack([by_place[z] for z in sorted(by_place)])
    ct = read_ct(tmp_path)
    assert ct.hu_kji.dtype == np.int16
    np.testing.assert_array_equal(ct.hu_kji, expected)


def test_fractional_rescale_in_one_slice_keeps_its_fractions(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[4], RescaleSlope=0.5, RescaleIntercept=-10.25)
    ct = read_ct(tmp_path)
    assert ct.hu_kji.dtype == np.float32
    np.testing.assert_allclose(ct.hu_kji[4], (tiny_hu()[4] + 1024) * 0.5 - 10.25)
    np.testing.assert_array_equal(ct.hu_kji[3], tiny_hu()[3])


@pytest.mark.parametrize("intercept", [None, ""])
def test_slice_without_the_rescale_of_the_others_is_refused_and_named(tmp_path: Path, intercept: str | None) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[4], RescaleIntercept=intercept)
    with pytest.raises(InputError, match=rf"slice {files[4].name} .*lacks the rescale intercept"):
        read_ct(tmp_path)


def test_other_files_in_the_folder_are_ignored(tmp_path: Path) -> None:
    write_series(tmp_path / "DICOM" / "S1", tiny_hu())
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "labelmap.nii.gz").write_bytes(b"x")
    (tmp_path / ".hidden.dcm").write_bytes(b"x")
    write_report(tmp_path / "report.dcm")
    ct = read_ct(tmp_path)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.warnings == ()


def test_folder_of_reports_alone_is_refused(tmp_path: Path) -> None:
    write_report(tmp_path / "report.dcm")
    with pytest.raises(InputError, match="DICOM files, but no images among them"):
        read_ct(tmp_path)


# --- broken series -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 8])
def test_missing_slice_is_refused_between_its_neighbours(tmp_path: Path, k: int) -> None:
    write_series(tmp_path, tiny_hu())[k].unlink()
    with pytest.raises(InputError) as caught:
        read_ct(tmp_path)
    message = str(caught.value)
    assert "1 slice(s) missing between" in message
    assert f"instance {k}," in message and f"instance {k + 2}," in message
    assert f"z = {-120 + 2 * (k - 1):g} mm" in message


def test_unevenly_spaced_slice_is_refused_and_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[5], ImagePositionPatient=[-30.0, 12.5, -120 + 10.03])
    with pytest.raises(InputError, match=r"unevenly spaced: IM\d+\.dcm \(instance 6, z = -109\.97 mm\) lies 2\.03 mm"):
        read_ct(tmp_path)


def test_unevenness_below_one_percent_is_accepted(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[5], ImagePositionPatient=[-30.0, 12.5, -120 + 10.015])
    np.testing.assert_allclose(read_ct(tmp_path).geometry.spacing_ijk_mm[2], 2.0)


def test_slice_spacing_is_the_mean_so_that_the_last_slice_lies_where_it_is(tmp_path: Path) -> None:
    for k, file in enumerate(write_series(tmp_path, tiny_hu())):
        edit_slice(file, ImagePositionPatient=[-30.0, 12.5, -120 + 2 * k + 0.015 * max(0, k - 6)])
    np.testing.assert_allclose(read_ct(tmp_path).geometry.spacing_ijk_mm[2], 2.005)


def test_gap_of_no_whole_number_of_slices_is_called_uneven(tmp_path: Path) -> None:
    for k, file in enumerate(write_series(tmp_path, tiny_hu())):
        edit_slice(file, ImagePositionPatient=[-30.0, 12.5, -120 + 2 * k + 1.2 * (k > 5)])
    with pytest.raises(InputError, match=r"unevenly spaced: .*instance 7, .* lies 3\.2 mm"):
        read_ct(tmp_path)


@pytest.mark.parametrize(("column", "error"), [([0.1, 0.995, 0], "not perpendicular"), ([0, 1.05, 0], "no direction")])
def test_orientation_that_is_none_is_refused(tmp_path: Path, column: list[float], error: str) -> None:
    write_series(tmp_path, tiny_hu(), ImageOrientationPatient=[1.0, 0.0, 0.0, *column])
    with pytest.raises(InputError, match=error):
        read_ct(tmp_path)


def test_directions_become_of_unit_length(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(), ImageOrientationPatient=[0.995, 0.0, 0.0, 0.0, 0.995, 0.0])
    assert read_ct(tmp_path).geometry.direction_lps == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_duplicated_position_is_refused_with_both_slices(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[5], ImagePositionPatient=[-30.0, 12.5, -112.0])
    with pytest.raises(InputError, match=r"two slices at one position: .*instance [56].*instance [56]"):
        read_ct(tmp_path)


@pytest.mark.parametrize("share", [0.015, 0.27])
def test_gantry_tilt_is_refused_with_the_slice(tmp_path: Path, share: float) -> None:
    write_series(tmp_path, tiny_hu(), step_lps_mm=(0.0, share * 2.0, 2.0))
    with pytest.raises(InputError, match=r"sheared \(gantry tilt\?\): slice .*\(instance 2, z = -118 mm\).*Resample"):
        read_ct(tmp_path)


def test_tilt_below_one_percent_is_accepted(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(), step_lps_mm=(0.0, 0.005 * 2.0, 2.0))
    np.testing.assert_allclose(read_ct(tmp_path).geometry.direction_lps, np.eye(3).ravel())


def test_single_slice_moved_sideways_is_refused_and_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[6], ImagePositionPatient=[-29.0, 12.5, -108.0])
    with pytest.raises(InputError, match=r"instance 7, z = -108 mm\) lies 1 mm aside"):
        read_ct(tmp_path)


@pytest.mark.parametrize("angle", [0.02, 0.2])
def test_turned_slice_is_refused_and_named(tmp_path: Path, angle: float) -> None:
    files = write_series(tmp_path, tiny_hu())
    cosine, sine = round(np.cos(angle), 6), round(np.sin(angle), 6)
    edit_slice(files[6], ImageOrientationPatient=[cosine, sine, 0, -sine, cosine, 0])
    with pytest.raises(InputError, match=r"instance 7.* is turned against the others"):
        read_ct(tmp_path)


def test_other_pixel_spacing_in_one_slice_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[6], PixelSpacing=[0.5, 0.8])
    with pytest.raises(InputError, match=r"instance 7.* has another pixel spacing"):
        read_ct(tmp_path)


def test_pixel_spacing_that_differs_by_its_rounding_is_accepted(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[6], PixelSpacing=[0.5, 0.75003])
    np.testing.assert_allclose(read_ct(tmp_path).geometry.spacing_ijk_mm, (0.75, 0.5, 2.0))


@pytest.mark.parametrize("position", [None, [-30.0, 12.5]])
def test_slice_without_position_is_refused(tmp_path: Path, position: list[float] | None) -> None:
    files = write_series(tmp_path, tiny_hu())
    edit_slice(files[6], ImagePositionPatient=position)
    with pytest.raises(InputError, match=r"lacks position"):
        read_ct(tmp_path)


@pytest.mark.parametrize("name", ["IM.dcm", "IM.IMA", "IM.dicom"])
def test_slice_that_is_no_dicom_any_more_is_refused_and_not_left_out(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, tiny_hu())[9].unlink()  # at the edge, where dropping it would not be noticed
    (tmp_path / name).write_bytes(bytes(1000))
    with pytest.raises(InputError, match=f"{name} is no readable DICOM file"):
        read_ct(tmp_path)


def test_huge_series_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, tiny_hu())
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match="GiB are free"):
        read_ct(tmp_path)


@pytest.mark.parametrize("explicit", [False, True])
def test_old_files_without_preamble_are_read(tmp_path: Path, *, explicit: bool) -> None:
    for file in write_series(tmp_path, tiny_hu()):
        ds = pydicom.dcmread(file)
        del ds.file_meta
        ds.preamble = None
        pydicom.dcmwrite(file, ds, implicit_vr=not explicit, little_endian=True)
        assert file.read_bytes()[:2] == b"\x08\x00"
        assert lengths_fit(file)
    np.testing.assert_array_equal(read_ct(tmp_path).hu_kji, tiny_hu())


@pytest.mark.parametrize("keep", [0.05, 0.12, 0.4, 0.8, 0.99])
def test_truncated_slice_is_refused_and_named(tmp_path: Path, keep: float) -> None:
    file = write_series(tmp_path, tiny_hu())[9]  # at the edge, where dropping it would not be noticed
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(InputError, match=file.name):
        read_ct(tmp_path)


def _state_length(file: Path, *, element: bytes, length: int) -> None:
    """Let a file state another length of the element whose tag and value representation these are."""
    raw = bytearray(file.read_bytes())
    at = raw.index(element) + 8
    raw[at : at + 4] = length.to_bytes(4, "little")
    file.write_bytes(raw)


def test_length_of_four_gigabytes_is_noticed_before_it_is_allocated(tmp_path: Path) -> None:
    file = write_series(tmp_path, tiny_hu())[3]
    _state_length(file, element=b"\xe0\x7f\x10\x00OW", length=0xFFFFFFFE)
    assert not lengths_fit(file)
    with pytest.raises(InputError, match=rf"{file.name} is truncated or corrupt"):
        read_ct(tmp_path)


@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "RLELossless"])
@pytest.mark.parametrize("count", [1, 4, 7, 8, 12, 100])
def test_zeros_after_the_pixels_are_passed_over(tmp_path: Path, syntax: str, count: int) -> None:
    uid = getattr(pydicom.uid, syntax)
    for file in write_series(tmp_path, tiny_hu()):
        ds = pydicom.dcmread(file)
        if uid.is_encapsulated:
            ds.compress(uid, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = uid
        pydicom.dcmwrite(file, ds, implicit_vr=uid.is_implicit_VR, little_endian=True, force_encoding=True)
        file.write_bytes(file.read_bytes() + bytes(count))
    np.testing.assert_array_equal(read_ct(tmp_path).hu_kji, tiny_hu())


def test_other_bytes_after_the_pixels_are_refused(tmp_path: Path) -> None:
    file = write_series(tmp_path, tiny_hu())[3]
    file.write_bytes(file.read_bytes() + b"\0\0\0\1")
    with pytest.raises(InputError, match=rf"{file.name} is truncated or corrupt"):
        read_ct(tmp_path)


def test_undefined_length_in_the_file_meta_is_noticed(tmp_path: Path) -> None:
    file = write_series(tmp_path, tiny_hu())[3]
    _state_length(file, element=b"\x02\x00\x01\x00OB", length=0xFFFFFFFF)
    assert not lengths_fit(file)


def test_files_that_pydicom_ships_pass_the_length_check_if_gdcm_reads_them() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = [file for file in folder.glob("*.dcm") if file.read_bytes()[128:132] == b"DICM"]
    assert len(files) >= 10
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        reader.SetImageIO("GDCMImageIO")
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        assert lengths_fit(file), file.name


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "MR"}, "MR, not CT"),
        ({"Modality": "PT"}, "PT, not CT"),
        ({"SeriesDescription": "Topogram 0.6"}, "localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not axial"),
        ({"ImageOrientationPatient": None}, "no slice position"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, r"inverted grey values \(MONOCHROME1\)"),
    ],
)
def test_series_that_is_no_axial_ct_is_refused_with_the_reason(
    tmp_path: Path, tags: dict[str, Any], message: str
) -> None:
    write_series(tmp_path, tiny_hu(), **tags)
    with pytest.raises(InputError, match=rf"no axial chest CT series found.*{message}"):
        read_ct(tmp_path)


def test_colour_images_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    for file in files:
        edit_slice(
            file,
            SamplesPerPixel=3,
            PhotometricInterpretation="RGB",
            PlanarConfiguration=0,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelRepresentation=0,
            PixelData=bytes(12 * 14 * 3),
        )
    with pytest.raises(InputError, match="colour images"):
        read_ct(tmp_path)


def test_seven_slices_are_too_few(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(shape_kji=(7, 12, 14)))
    with pytest.raises(InputError, match="fewer than 8 slices"):
        read_ct(tmp_path)


def test_one_slice_given_as_a_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    files = write_series(tmp_path, tiny_hu())
    with pytest.raises(InputError, match="Give the series' folder"):
        read_ct(files[0])


def test_multi_frame_file_of_another_kind_than_enhanced_ct_is_refused_as_such(tmp_path: Path) -> None:
    file = write_series(tmp_path, tiny_hu())[0]
    edit_slice(file, NumberOfFrames=10, PixelData=bytes(10 * 12 * 14 * 2))
    message = "multi-frame DICOM that is no Enhanced CT, export it as single slices or NIfTI"
    with pytest.raises(InputError, match=message):
        read_ct(file)


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_jpeg_lossless_zip_is_read_as_pydicom_decodes_it(tmp_path: Path, data_dir: Path) -> None:
    path = data_dir / "ct" / "covid_p001_dicom.zip"
    ct = read_ct(path)
    assert ct.hu_kji.shape == (148, 512, 512)
    assert ct.hu_kji.dtype == np.int16
    np.testing.assert_allclose(ct.geometry.spacing_ijk_mm, (0.748046875, 0.748046875, 2.0), atol=1e-9)
    assert (ct.name, ct.warnings) == ("covid_p001_dicom", ())
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[40]
        (tmp_path / "slice.dcm").write_bytes(archive.read(name))
    ds = pydicom.dcmread(tmp_path / "slice.dcm")
    k = round((float(ds.ImagePositionPatient[2]) - ct.geometry.origin_lps_mm[2]) / ct.geometry.spacing_ijk_mm[2])
    np.testing.assert_array_equal(ct.hu_kji[k], ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept)
