"""NIfTI: values, grids (as ITK sees them), and everything ITK would let pass."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.volume import read_ct
from helpers_ct_files import OBLIQUE, tiny_geometry, tiny_hu, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

nib = pytest.importorskip("nibabel")

AFFINE = np.array([[-0.75, 0, 0, 30], [0, -0.5, 0, -12.5], [0, 0, 2.0, -120], [0, 0, 0, 1.0]])


def write_nifti(
    path: Path,
    values_kji: np.ndarray,
    *,
    affine: np.ndarray = AFFINE,
    sform_code: int = 1,
    qform_code: int = 1,
    qform: np.ndarray | None = None,
) -> Path:
    """Write with nibabel, which (unlike ITK) writes whatever header is asked for."""
    image = nib.Nifti1Image(values_kji.T, affine)
    image.set_qform(affine if qform is None else qform, code=qform_code, strip_shears=True)
    image.set_sform(affine, code=sform_code)
    nib.save(image, path)
    return path


def patch_header(path: Path, offset: int, packed: bytes) -> Path:
    """Overwrite header bytes of an uncompressed NIfTI file."""
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(packed)] = packed
    path.write_bytes(raw)
    return path


def test_compressed_file_named_nii_is_refused_with_the_name_it_should_have(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.nii.gz", tiny_hu()).rename(tmp_path / "ct.nii")
    with pytest.raises(InputError, match=r"ct\.nii: a compressed file .*Rename it to end in \.nii\.gz"):
        read_ct(path)


@pytest.mark.parametrize("name", ["ct.Nii", "ct.nii.GZ"])
def test_ending_whose_capitals_itk_does_not_take_is_refused_with_the_right_one(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name.lower(), tiny_hu()).rename(tmp_path / name)
    with pytest.raises(InputError, match=r"mixes capitals and small letters\. Rename it to end in \.nii(\.gz)?\.$"):
        read_ct(path)


@pytest.mark.parametrize("name", ["ct.NII", "ct.NII.GZ"])
def test_ending_in_capitals_is_read(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name.lower(), tiny_hu()).rename(tmp_path / name)
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_int16_nifti_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    hu_kji = tiny_hu()
    ct = read_ct(write_image(tmp_path / name, hu_kji))
    assert ct.hu_kji.dtype == np.int16
    np.testing.assert_array_equal(ct.hu_kji, hu_kji)
    assert ct.geometry.is_close_to(tiny_geometry(), tolerance_voxels=1e-5)
    assert ct.warnings == ()
    assert ct.series is None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    axes=st.permutations([0, 1, 2]),
    codes=st.sampled_from([(1, 1), (0, 1), (1, 0), (2, 1), (3, 2)]),
)
def test_grid_is_exactly_itks_for_any_orientation(
    tmp_path: Path, angles: tuple, flips: tuple, axes: list[int], codes: tuple[int, int]
) -> None:
    a, b, c = angles
    rotation = (
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        @ np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    )
    affine = np.eye(4)
    affine[:3, :3] = (rotation * np.array(flips))[:, axes] * [0.75, 0.5, 2.0]
    affine[:3, 3] = [11.0, -7.0, 3.0]
    path = write_nifti(tmp_path / "ct.nii", tiny_hu(), affine=affine, sform_code=codes[0], qform_code=codes[1])
    found = read_ct(path).geometry
    assert found == Geometry.from_sitk(sitk.ReadImage(str(path)))
    # A qform near a half turn loses half of single precision's digits: its quaternion's real part is a difference.
    np.testing.assert_allclose(found.ijk_to_ras, affine, atol=2e-3)


def test_flipped_left_right_axis_is_kept_with_negative_determinant(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0] *= -1
    geometry = read_ct(write_nifti(tmp_path / "ct.nii.gz", tiny_hu(), affine=affine)).geometry
    assert np.linalg.det(geometry.direction_matrix) == pytest.approx(-1.0)
    np.testing.assert_allclose(geometry.ijk_to_ras, affine, atol=1e-5)


def test_oblique_grid_survives_exactly(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.nii", tiny_hu(), geometry=tiny_geometry(direction_lps=OBLIQUE))
    np.testing.assert_allclose(read_ct(path).geometry.direction_lps, OBLIQUE, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_every_number_type_is_read(tmp_path: Path, kind: type) -> None:
    values = (np.abs(tiny_hu()) % 120).astype(kind)
    ct = read_ct(write_nifti(tmp_path / "ct.nii", values))
    assert ct.hu_kji.dtype == np.int16  # whole numbers that fit
    np.testing.assert_array_equal(ct.hu_kji, values)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32])
def test_ends_of_every_number_type_are_kept(tmp_path: Path, kind: type) -> None:
    values = tiny_hu().astype(kind)
    values[0, 0, :2] = max(np.iinfo(kind).min, -1_000_000), min(np.iinfo(kind).max, 1_000_000)
    np.testing.assert_array_equal(read_ct(write_nifti(tmp_path / "ct.nii", values)).hu_kji, values)


def test_big_endian_file_is_read(tmp_path: Path) -> None:
    image = nib.Nifti1Image(tiny_hu().astype(">i2").T, AFFINE, header=nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "ct.nii")
    assert (tmp_path / "ct.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.nii").hu_kji, tiny_hu())


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    stored = (tiny_hu().astype(np.int32) + 1024).astype(np.uint16)
    path = write_nifti(tmp_path / "ct.nii", stored)
    patch_header(path, 112, struct.pack("<2f", 1.0, -1024.0))
    ct = read_ct(path)
    assert ct.hu_kji.dtype == np.int16
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    patch_header(path, 112, struct.pack("<2f", 2.0, 0.0))
    np.testing.assert_array_equal(read_ct(path).hu_kji, stored.astype(int) * 2)
    patch_header(path, 112, struct.pack("<2f", 0.5, -1000.0))
    ct = read_ct(path)
    assert ct.hu_kji.dtype == np.float32
    np.testing.assert_allclose(ct.hu_kji, stored * 0.5 - 1000.0)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_slope_zero_or_nan_means_no_scaling(tmp_path: Path, slope: float) -> None:
    path = patch_header(write_nifti(tmp_path / "ct.nii", tiny_hu()), 112, struct.pack("<2f", slope, 5.0))
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize("value", [70_000, -70_000])
def test_whole_numbers_beyond_int16_become_float32_unclipped(tmp_path: Path, value: int) -> None:
    values = tiny_hu().astype(np.int32)
    values[3, 4, 5] = value
    ct = read_ct(write_nifti(tmp_path / "ct.nii", values))
    assert ct.hu_kji.dtype == np.float32
    np.testing.assert_array_equal(ct.hu_kji, values)


def test_fourth_axis_of_length_one_is_dropped(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(tiny_hu().T[..., None], AFFINE), tmp_path / "ct.nii")
    ct = read_ct(tmp_path / "ct.nii")
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    np.testing.assert_allclose(ct.geometry.ijk_to_ras, AFFINE, atol=1e-5)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_truncated_file_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    path = write_image(tmp_path / name, tiny_hu())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(InputError, match=r"ct\.nii.*(truncated|corrupt).*again"):
        read_ct(path)


def test_truncated_file_is_refused_with_the_first_slice_that_is_missing(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.nii", tiny_hu())
    path.write_bytes(path.read_bytes()[: 352 + 5 * tiny_hu()[0].nbytes + 9])
    with pytest.raises(InputError, match="slice 6 of 10 is missing"):
        read_ct(path)


def test_gzip_with_damaged_bytes_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.nii.gz", tiny_hu())
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF  # in the checksum
    path.write_bytes(raw)
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_ct(path)


@pytest.mark.parametrize(("share", "sform_code", "qform_code"), [(0.02, 1, 0), (0.02, 1, 1), (0.2, 2, 1), (0.03, 4, 0)])
def test_sheared_sform_is_refused_even_where_itk_takes_the_qform(
    tmp_path: Path, share: float, sform_code: int, qform_code: int
) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = share * 2.0
    path = write_nifti(tmp_path / "ct.nii.gz", tiny_hu(), affine=affine, sform_code=sform_code, qform_code=qform_code)
    with pytest.raises(InputError, match=r"sheared.*slice 2.*1 % is allowed.*Resample"):
        read_ct(path)


@pytest.mark.parametrize("qform_code", [0, 1])
def test_shear_below_one_percent_is_straightened(tmp_path: Path, qform_code: int) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 0.005 * 2.0
    geometry = read_ct(write_nifti(tmp_path / "ct.nii", tiny_hu(), affine=affine, qform_code=qform_code)).geometry
    np.testing.assert_allclose(geometry.direction_matrix.T @ geometry.direction_matrix, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(geometry.ijk_to_ras, affine, atol=0.01)


@pytest.mark.parametrize("shear_mm", [0.0, 0.01])
@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001)])
def test_grid_in_metres_or_micrometres_is_in_millimetres(tmp_path: Path, unit: str, mm: float, shear_mm: float) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = shear_mm  # what is straightened here takes another way than what ITK reads
    stored = np.diag([1 / mm, 1 / mm, 1 / mm, 1.0]) @ affine
    image = nib.Nifti1Image(tiny_hu().T, stored)
    image.set_sform(stored, code=1)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "ct.nii")
    np.testing.assert_allclose(read_ct(tmp_path / "ct.nii").geometry.ijk_to_ras, affine, atol=0.01)


def test_sheared_in_plane_axes_are_refused(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.05
    with pytest.raises(InputError, match="axes i and j are sheared"):
        read_ct(write_nifti(tmp_path / "ct.nii", tiny_hu(), affine=affine))


MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
TURNED = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE


@pytest.mark.parametrize("sform_code", [1, 2])
@pytest.mark.parametrize("qform", [MIRRORED, TURNED], ids=["mirrored", "turned"])
@pytest.mark.parametrize("handedness", [1, -1])
def test_disagreeing_orientations_are_warned_of_and_the_one_used_is_itks(
    tmp_path: Path, sform_code: int, qform: np.ndarray, handedness: int
) -> None:
    mirror = np.diag([1.0, handedness, 1, 1])  # in either of them the axes may be left-handed
    path = tmp_path / "ct.nii"
    write_nifti(path, tiny_hu(), affine=AFFINE @ mirror, sform_code=sform_code, qform=qform @ mirror)
    ct = read_ct(path)
    assert ct.geometry == Geometry.from_sitk(sitk.ReadImage(str(path)))
    used = "sform" if np.allclose(ct.geometry.ijk_to_ras, AFFINE @ mirror, atol=1e-4) else "qform"
    assert any(f"two different orientations (qform and sform); the {used} is used" in text for text in ct.warnings)


def test_orientations_that_agree_are_not_warned_of(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:3, :3] = np.reshape(OBLIQUE, (3, 3))
    for affine in (AFFINE, MIRRORED, TURNED, turn @ AFFINE, turn @ MIRRORED):
        assert read_ct(write_nifti(tmp_path / "ct.nii", tiny_hu(), affine=affine)).warnings == ()


@pytest.mark.parametrize(("degrees", "warns"), [(1.0, False), (1.5, True)])
def test_orientations_disagree_from_about_a_degree_on(tmp_path: Path, degrees: float, *, warns: bool) -> None:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    ct = read_ct(write_nifti(tmp_path / "ct.nii", tiny_hu(), qform=turn @ AFFINE))
    assert bool(ct.warnings) == warns


@pytest.mark.parametrize(
    ("byte", "what"), [(116, "intercept"), (256, "position"), (268, "position"), (292, "position")]
)
def test_header_with_what_is_no_number_is_refused(tmp_path: Path, byte: int, what: str) -> None:
    path = patch_header(write_nifti(tmp_path / "ct.nii", tiny_hu()), byte, struct.pack("<f", np.nan))
    with pytest.raises(InputError, match=f"the {what} in the header is not a number"):
        read_ct(path)


def test_file_without_orientation_gives_a_warning(tmp_path: Path) -> None:
    ct = read_ct(write_nifti(tmp_path / "ct.nii", tiny_hu(), sform_code=0, qform_code=0))
    assert any("states no orientation" in warning for warning in ct.warnings)


def test_header_that_contradicts_itself_on_spacing_is_refused(tmp_path: Path) -> None:
    path = patch_header(write_nifti(tmp_path / "ct.nii", tiny_hu()), 80, struct.pack("<f", 1.5))
    with pytest.raises(InputError, match=r"contradicts itself: spacing 1.5 by pixdim, 0.75 by sform"):
        read_ct(path)


@pytest.mark.parametrize("spacing", [0.0, np.nan, 0.01, 60.0])
def test_zero_or_absurd_spacing_is_refused(tmp_path: Path, spacing: float) -> None:
    path = write_nifti(tmp_path / "ct.nii", tiny_hu(), sform_code=0)
    patch_header(path, 80, struct.pack("<3f", 0.75, 0.5, spacing))
    with pytest.raises(InputError, match=r"spacing.*(Correct|Export)"):
        read_ct(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_anywhere_is_refused_with_its_slice(tmp_path: Path, bad: float) -> None:
    values = tiny_hu().astype(np.float32)
    values[6, 2, 3] = bad
    with pytest.raises(InputError, match=r"1 voxel\(s\) of slice 7 are NaN or infinite"):
        read_ct(write_nifti(tmp_path / "ct.nii.gz", values))


@pytest.mark.parametrize(
    ("shape_ijk", "message"),
    [
        ((14, 12), "2D"),
        ((14, 12, 1), "2D"),
        ((14, 12, 7), "only 7 slices"),
        ((14, 12, 10, 2), "4D"),
        ((14, 12, 10, 1, 3), "5D"),
    ],
)
def test_wrong_number_of_axes_or_slices_is_refused(tmp_path: Path, shape_ijk: tuple[int, ...], message: str) -> None:
    values = np.random.default_rng(0).integers(-900, 900, shape_ijk).astype(np.int16)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match=message):
        read_ct(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("code", [32, 128, 1792, 2304, 1536, 1])
def test_complex_colour_and_unknown_types_are_refused(tmp_path: Path, code: int) -> None:
    path = patch_header(write_nifti(tmp_path / "ct.nii", tiny_hu()), 70, struct.pack("<h", code))
    with pytest.raises(InputError, match="a CT is grey, one number per voxel"):
        read_ct(path)


def test_nifti_2_and_analyze_are_refused_with_a_remedy(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(tiny_hu().T, AFFINE), tmp_path / "two.nii")
    with pytest.raises(InputError, match="NIfTI-1"):
        read_ct(tmp_path / "two.nii")


def test_gzip_under_the_name_nii_is_read_or_refused_in_words(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "ct.nii", tiny_hu())
    path.write_bytes(gzip.compress(path.read_bytes()))
    try:
        np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())
    except InputError as error:
        assert "ct.nii" in str(error)


def test_header_claiming_a_huge_volume_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: 4 << 30)
    path = patch_header(write_nifti(tmp_path / "ct.nii", tiny_hu()), 42, struct.pack("<3h", 2000, 2000, 2000))
    with pytest.raises(InputError, match=r"needs about 52\.7 GiB of memory, 4\.0 GiB are free"):
        read_ct(path)
