"""NRRD and MetaImage: values and grids as ITK has them; damage is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.readers.inputs import detached_data_files
from CovidSegLib.volume import fingerprint_of, read_ct
from helpers_ct_files import OBLIQUE, tiny_geometry, tiny_hu, write_image

NAMES = ["ct.nrrd", "ct.nhdr", "ct.mha", "ct.mhd"]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_oblique_grid_are_itks(tmp_path: Path, name: str, *, compress: bool) -> None:
    geometry = tiny_geometry(direction_lps=OBLIQUE)
    path = write_image(tmp_path / name, tiny_hu(), geometry=geometry, compress=compress)
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.hu_kji.dtype == np.int16
    assert ct.geometry == Geometry.from_sitk(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(ct.geometry.direction_lps, OBLIQUE, atol=1e-6)
    assert (ct.name, ct.warnings) == ("ct", ())


@pytest.mark.parametrize("name", NAMES)
def test_swapped_and_flipped_axes_are_kept(tmp_path: Path, name: str) -> None:
    swapped = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    path = write_image(tmp_path / name, tiny_hu(), geometry=tiny_geometry(direction_lps=swapped))
    np.testing.assert_allclose(read_ct(path).geometry.direction_lps, swapped, atol=1e-9)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_every_number_type_is_read(tmp_path: Path, name: str, kind: type) -> None:
    values = (np.abs(tiny_hu()) % 120).astype(kind)
    ct = read_ct(write_image(tmp_path / name, values))
    assert ct.hu_kji.dtype == np.int16
    np.testing.assert_array_equal(ct.hu_kji, values)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32])
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_ends_of_every_number_type_are_kept(tmp_path: Path, name: str, kind: type) -> None:
    values = tiny_hu().astype(kind)
    values[0, 0, :2] = max(np.iinfo(kind).min, -1_000_000), min(np.iinfo(kind).max, 1_000_000)
    np.testing.assert_array_equal(read_ct(write_image(tmp_path / name, values)).hu_kji, values)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_fractions_stay_as_float32(tmp_path: Path, name: str) -> None:
    values = tiny_hu().astype(np.float64) + 0.25
    ct = read_ct(write_image(tmp_path / name, values))
    assert ct.hu_kji.dtype == np.float32
    np.testing.assert_array_equal(ct.hu_kji, values)


def test_big_endian_metaimage_is_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.mha", tiny_hu())
    header = path.read_bytes()[: -tiny_hu().nbytes].replace(b"MSB = False", b"MSB = True")
    path.write_bytes(header + tiny_hu().astype(">i2").tobytes())
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize("yes", ["T", "true", "1"])
def test_metaimage_says_yes_in_every_way_that_metaio_knows(tmp_path: Path, yes: str) -> None:
    path = write_image(tmp_path / "ct.mha", tiny_hu())
    header = path.read_bytes()[: -tiny_hu().nbytes].replace(b"MSB = False", b"MSB = " + yes.encode())
    path.write_bytes(header.replace(b"True", yes.encode()) + tiny_hu().astype(">i2").tobytes())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), tiny_hu())
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_header_with_much_in_it_is_read(tmp_path: Path, name: str) -> None:
    image = tiny_geometry().to_sitk(tiny_hu())
    for number in range(100):
        image.SetMetaData(f"Note{number}", "x" * 1000)
    sitk.WriteImage(image, str(tmp_path / name), True)
    np.testing.assert_array_equal(read_ct(tmp_path / name).hu_kji, tiny_hu())


@pytest.mark.parametrize("size", [b"9", b"-1"])
def test_metaimage_header_size_leaves_out_what_is_before_the_voxels(tmp_path: Path, size: bytes) -> None:
    path = write_image(tmp_path / "ct.mhd", tiny_hu())
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile", b"HeaderSize = " + size + b"\nElementDataFile"))
    (tmp_path / "ct.raw").write_bytes(b"preamble!" + tiny_hu().tobytes())
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


def metaimage_with(path: Path, *, fields: str, values_kji: np.ndarray, kind: str, data_file: str = "LOCAL") -> Path:
    """Write a MetaImage with a hand-made header."""
    head = f"ObjectType = Image\nNDims = 3\n{fields}DimSize = 14 12 10\nElementType = {kind}\n"
    path.write_bytes(f"{head}ElementDataFile = {data_file}\n".encode() + values_kji.tobytes())
    return path


@pytest.mark.parametrize(
    "fields",
    [
        "ElementSpacing = 0.75 0.5 2\nElementSize = 1 1 1\n",
        "ElementSize = 0.75 0.5 2\n",
        *(f"{key} = 5 6 7\n" for key in ("Offset", "Origin", "Position")),
        *(f"{key} = 0 1 0 0 0 1 1 0 0\n" for key in ("TransformMatrix", "Rotation", "Orientation")),
    ],
)
@pytest.mark.parametrize("data_file", ["LOCAL", "Local"])
def test_metaimage_fields_have_the_names_that_metaio_knows(tmp_path: Path, fields: str, data_file: str) -> None:
    path = metaimage_with(
        tmp_path / "ct.mha", fields=fields, values_kji=tiny_hu(), kind="MET_SHORT", data_file=data_file
    )
    ct = read_ct(path)
    assert ct.geometry == Geometry.from_sitk(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert any("no orientation" in warning for warning in ct.warnings) == ("0 1 0 0 0 1" not in fields)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("MET_LONG", "i4"), ("MET_ULONG", "u4"), ("MET_LONG_LONG", "i8"), ("MET_ULONG_LONG", "u8"), ("MET_UINT", "u4")],
)
def test_metaimage_types_have_the_bytes_that_metaio_gives_them(tmp_path: Path, kind: str, dtype: str) -> None:
    values = (tiny_hu() + 1000).astype(dtype)
    path = metaimage_with(tmp_path / "ct.mha", fields="BinaryData = True\n", values_kji=values, kind=kind)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)
    np.testing.assert_array_equal(read_ct(path).hu_kji, values)


def test_metaimage_with_voxels_as_text_is_refused(tmp_path: Path) -> None:
    path = metaimage_with(tmp_path / "ct.mha", fields="BinaryData = False\n", values_kji=tiny_hu(), kind="MET_SHORT")
    with pytest.raises(InputError, match=r"ct\.mha: voxels stored as text are not read"):
        read_ct(path)


def test_metaimage_over_several_files_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.mhd", tiny_hu())
    names = b"LIST\n" + b"\n".join(b"%d.raw" % k for k in range(10))
    path.write_bytes(path.read_bytes().replace(b"ct.raw", names))
    for k in range(10):
        (tmp_path / f"{k}.raw").write_bytes(tiny_hu()[k].tobytes())
    with pytest.raises(InputError, match=r"ct\.mhd: voxels spread over 10 files are not read"):
        read_ct(path)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95, 0.995])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_truncated_file_is_refused(tmp_path: Path, name: str, *, compress: bool, keep: float) -> None:
    path = write_image(tmp_path / name, tiny_hu(), compress=compress)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(InputError, match=r"ct\.(nrrd|mha).*(truncated|corrupt)"):
        read_ct(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_damaged_compressed_voxels_are_refused(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name, tiny_hu(), compress=True)
    raw = bytearray(path.read_bytes())
    raw[-700] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_ct(path)


@pytest.mark.parametrize("name", ["ct.nhdr", "ct.mhd"])
def test_missing_data_file_is_named(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name, tiny_hu())
    (tmp_path / "ct.raw").unlink()
    with pytest.raises(InputError, match=r"data file 'ct\.raw' is not beside it"):
        read_ct(path)


DETACHED = [("ct.nhdr", "ct.nhdr"), ("ct.nhdr", "ct.nrrd"), ("ct.mhd", "ct.mhd"), ("ct.mhd", "ct.mha")]
"""How ITK is to write a header of its own, and its name then: `.nrrd` and `.mha` may name a data file as well."""


@pytest.mark.parametrize(("written", "name"), DETACHED)
def test_data_file_outside_the_folder_is_refused(tmp_path: Path, written: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = write_image(tmp_path / "in" / written, tiny_hu()).rename(tmp_path / "in" / name)
    (tmp_path / "in" / "ct.raw").rename(tmp_path / "ct.raw")
    path.write_bytes(path.read_bytes().replace(b"ct.raw", b"../ct.raw"))
    with pytest.raises(InputError, match="not beside it"):
        read_ct(path)


@pytest.mark.parametrize(("written", "name"), DETACHED)
def test_fingerprint_of_a_detached_header_covers_the_voxels(tmp_path: Path, written: str, name: str) -> None:
    path = write_image(tmp_path / written, tiny_hu()).rename(tmp_path / name)
    assert np.array_equal(read_ct(path).hu_kji, tiny_hu())
    before = fingerprint_of(path)
    raw = bytearray((tmp_path / "ct.raw").read_bytes())
    raw[5] ^= 1
    (tmp_path / "ct.raw").write_bytes(raw)
    assert fingerprint_of(path) != before


COLOUR = np.random.default_rng(0).integers(0, 255, (10, 12, 14, 3)).astype(np.uint8)


@pytest.mark.parametrize("values_kji", [COLOUR, tiny_hu().astype(np.complex64)], ids=["colour", "complex"])
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_colour_and_complex_are_refused(tmp_path: Path, name: str, values_kji: np.ndarray) -> None:
    with pytest.raises(InputError, match="a CT is grey"):
        read_ct(write_image(tmp_path / name, values_kji, geometry=tiny_geometry()))


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
@pytest.mark.parametrize(("shape", "message"), [((12, 14), "2D"), ((7, 12, 14), "only 7"), ((3, 10, 12, 14), "4D")])
def test_wrong_number_of_axes_or_slices_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    values = np.random.default_rng(0).integers(-900, 900, shape).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=False), str(tmp_path / name))
    with pytest.raises(InputError, match=message):
        read_ct(tmp_path / name)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_sheared_direction_is_refused(tmp_path: Path, name: str, share: float) -> None:
    sheared = (1.0, 0.0, 0.0, 0.0, 1.0, share, 0.0, 0.0, 1.0)
    path = write_image(tmp_path / name, tiny_hu(), geometry=tiny_geometry(direction_lps=sheared))
    with pytest.raises(InputError, match=r"axes j and k are sheared.*slice 2"):
        read_ct(path)


def nrrd_with(path: Path, *, fields: str) -> Path:
    """Write an NRRD with hand-made orientation fields."""
    head = f"NRRD0004\ntype: short\ndimension: 3\n{fields}sizes: 14 12 10\nendian: little\nencoding: raw\n\n"
    path.write_bytes(head.encode() + tiny_hu().tobytes())
    return path


@pytest.mark.parametrize("encoding", ["gzip", "gz", "GZIP"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_compressed_nrrd_is_read_and_checked_however_its_header_is_spelled(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    path = nrrd_with(tmp_path / "ct.nrrd", fields="spacings: 1 1 2\n")
    head = path.read_bytes()[: -tiny_hu().nbytes].decode().replace("encoding: raw", f"encoding: {encoding}")
    raw = bytearray(head.replace("\n", newline).encode() + gzip.compress(tiny_hu().tobytes()))
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())
    raw[-2] ^= 1  # in the length, the last of what gzip checks
    path.write_bytes(raw)
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_ct(path)


def test_line_before_compressed_voxels_of_an_nrrd_is_left_out(tmp_path: Path) -> None:
    path = nrrd_with(tmp_path / "ct.nrrd", fields="spacings: 1 1 2\nline skip: 1\n")
    head = path.read_bytes()[: -tiny_hu().nbytes].replace(b"encoding: raw", b"encoding: gzip")
    path.write_bytes(head + b"made by hand\n" + gzip.compress(tiny_hu().tobytes()))
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("datafile: voxels.raw", None),
        ("data file: s%03d+.raw 0 9 1 2", "s{:03d}+.raw"),
        ("data file: s%d.raw 0 9 1 2", "s{}.raw"),
        ("data file: LIST 2\n{names}", "s{}.raw"),
    ],
)
def test_data_files_of_an_nrrd_are_found_however_they_are_named(tmp_path: Path, field: str, name: str | None) -> None:
    hu_kji = tiny_hu()
    files = [tmp_path / (name or "voxels.raw").format(k) for k in range(len(hu_kji) if name else 1)]
    for k, file in enumerate(files):
        file.write_bytes(hu_kji[k].tobytes() if name else hu_kji.tobytes())
    path = nrrd_with(tmp_path / "ct.nhdr", fields="spacings: 1 1 2\n")
    line = field.replace("{names}", "\n".join(file.name for file in files))
    path.write_bytes(path.read_bytes()[: -hu_kji.nbytes - 1] + f"{line}\n".encode())
    assert sorted(detached_data_files(path)) == sorted(files)
    np.testing.assert_array_equal(read_ct(path).hu_kji, hu_kji)
    before = fingerprint_of(path)
    files[-1].write_bytes(files[-1].read_bytes()[:-1] + b"\1")
    assert fingerprint_of(path) != before


def test_nrrd_with_a_list_of_one_number_per_voxel_is_read(tmp_path: Path) -> None:
    path = nrrd_with(tmp_path / "ct.nrrd", fields="kinds: list domain domain domain\n")
    path.write_bytes(path.read_bytes().replace(b"dimension: 3", b"dimension: 4").replace(b"sizes: ", b"sizes: 1 "))
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


def test_nrrd_in_ras_is_turned_into_lps(tmp_path: Path) -> None:
    fields = "space: right-anterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (5,6,7)\n"
    geometry = read_ct(nrrd_with(tmp_path / "ct.nrrd", fields=fields)).geometry
    np.testing.assert_allclose(geometry.direction_lps, (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    np.testing.assert_allclose(geometry.origin_lps_mm, (-5, -6, 7))


def test_nrrd_without_orientation_gives_a_warning(tmp_path: Path) -> None:
    ct = read_ct(nrrd_with(tmp_path / "ct.nrrd", fields="spacings: 1 1 2\n"))
    assert any("states no orientation" in warning for warning in ct.warnings)


@pytest.mark.parametrize("direction", ["(0,0,0)", "(0,0,0.001)", "(0,0,50)", "(1,0,0)", "none"])
def test_nrrd_with_zero_absurd_or_flat_axes_is_refused(tmp_path: Path, direction: str) -> None:
    fields = f"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) {direction}\n"
    with pytest.raises(InputError, match=r"ct\.nrrd"):
        read_ct(nrrd_with(tmp_path / "ct.nrrd", fields=fields))


@pytest.mark.parametrize("spacing", ["0.7 0.5 0", "0.7 0.5 nan", "0.7 -0.5 2", "0.7 0.5", "0.7 0.5 1e9"])
def test_metaimage_with_zero_or_absurd_spacing_is_refused(tmp_path: Path, spacing: str) -> None:
    path = write_image(tmp_path / "ct.mha", tiny_hu())
    path.write_bytes(path.read_bytes().replace(b"Spacing = 0.75 0.5 2", f"Spacing = {spacing}".encode()))
    with pytest.raises(InputError, match=r"ct\.mha"):
        read_ct(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_nan_is_refused_with_its_slice(tmp_path: Path, name: str) -> None:
    values = tiny_hu().astype(np.float32)
    values[2] = np.nan
    with pytest.raises(InputError, match=r"168 voxel.* of slice 3 are NaN"):
        read_ct(write_image(tmp_path / name, values))


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_huge_volume_is_refused_before_it_is_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match="GiB are free"):
        read_ct(write_image(tmp_path / name, tiny_hu()))


def test_metaimage_without_axes_is_read_with_a_warning(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.mha", tiny_hu())
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith((b"TransformMatrix", b"Anatomical"))))
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert [warning for warning in ct.warnings if "states no orientation" in warning]


@pytest.mark.parametrize("space", ["space dimension: 3", "space: scanner-xyz", "space: 3D-right-handed"])
def test_nrrd_without_a_space_of_the_patient_is_read_with_a_warning(tmp_path: Path, space: str) -> None:
    path = write_image(tmp_path / "ct.nrrd", tiny_hu())
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior", space.encode()))
    assert [warning for warning in read_ct(path).warnings if "states no orientation" in warning]


@pytest.mark.parametrize("space", ["LPS", "RAS", "left-anterior-superior", "Right-Anterior-Superior"])
def test_nrrd_in_a_space_of_the_patient_is_read_without_a_warning(tmp_path: Path, space: str) -> None:
    path = write_image(tmp_path / "ct.nrrd", tiny_hu())
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    assert read_ct(path).warnings == ()


@pytest.mark.parametrize(
    ("name", "at"),  # gzip ends with CRC and length, zlib with its checksum
    [("ct.nrrd", -6), ("ct.nrrd", -2), ("ct.nhdr", -6), ("ct.nhdr", -2), ("ct.mha", -2), ("ct.mhd", -2)],
)
def test_compressed_voxels_that_do_not_fit_their_checksum_are_refused(tmp_path: Path, name: str, at: int) -> None:
    path = write_image(tmp_path / name, tiny_hu(), compress=True)
    (voxels,) = [file for file in tmp_path.iterdir() if file.suffix not in (".nhdr", ".mhd")]
    raw = bytearray(voxels.read_bytes())
    raw[at] ^= 1
    voxels.write_bytes(raw)
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_ct(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_large_compressed_volume_is_read_in_pieces_and_checked_to_its_end(tmp_path: Path, name: str) -> None:
    hu_kji = tiny_hu(shape_kji=(8, 300, 300))  # noise: more than a piece of 256 KiB even when packed
    path = write_image(tmp_path / name, hu_kji, compress=True)
    np.testing.assert_array_equal(read_ct(path).hu_kji, hu_kji)
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_ct(path)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("written", ["größe Å.nhdr", "größe Å.mhd"])
def test_data_file_with_accents_in_its_name_is_found(tmp_path: Path, written: str, encoding: str) -> None:
    path = write_image(tmp_path / written, tiny_hu())
    data_file = path.with_suffix(".raw").name
    header = path.read_bytes()
    assert data_file.encode() in header  # as ITK writes it
    path.write_bytes(header.replace(data_file.encode(), data_file.encode(encoding)))
    assert detached_data_files(path) == [tmp_path / data_file]
    assert fingerprint_of(path)
    if encoding == "utf-8":
        assert np.array_equal(read_ct(path).hu_kji, tiny_hu())
