"""Zips: what is unpacked, what is refused, and that nothing stays behind."""

from __future__ import annotations

import io
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.readers.archive import ZipLimits, extracted
from CovidSegLib.volume import fingerprint_of, list_series, read_ct
from helpers_ct_files import tiny_hu, write_image, write_series, zip_files, zip_series


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give tests a temporary folder of their own, and check that it is empty after each."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil.dcm",
        "a/../../evil.dcm",
        "/etc/evil.dcm",
        "C:\\evil.dcm",
        "c:evil.dcm",
        "..\\evil.dcm",
        "\\\\host\\evil",
    ],
)
def test_escaping_path_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.dcm", b"x")
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"evil\.zip: an entry leads out of the zip"):
        read_ct(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InputError, match="holds a link"):
        read_ct(tmp_path / "ct.zip")


def test_bomb_is_refused_by_ratio_while_unpacking(tmp_path: Path) -> None:
    zip_files(tmp_path / "bomb.zip", {"a.dcm": bytes(4 << 20)})
    limits = ZipLimits(ratio_from_bytes=1 << 20)
    with pytest.raises(InputError, match="expands absurdly"), extracted(tmp_path / "bomb.zip", limits=limits):
        pytest.fail("unpacked")


def test_small_file_that_packs_well_is_no_bomb(tmp_path: Path) -> None:
    zip_files(tmp_path / "empty.zip", {"a.dcm": bytes(4 << 20)})  # a thousandth, as of empty slices
    with extracted(tmp_path / "empty.zip") as (file,):
        assert file.stat().st_size == 4 << 20


def test_bomb_is_refused_with_the_ordinary_limits(tmp_path: Path) -> None:
    zip_files(tmp_path / "bomb.zip", {f"{n}.dcm": bytes(24 << 20) for n in range(4)})
    with pytest.raises(InputError, match="expands absurdly"):
        read_ct(tmp_path / "bomb.zip")


def test_total_size_is_refused_by_what_the_headers_claim(tmp_path: Path) -> None:
    zip_files(tmp_path / "big.zip", {"a.dcm": bytes(2000), "b.dcm": bytes(2000)})
    limits = ZipLimits(max_bytes=3000)
    with pytest.raises(InputError, match="would take more than"), extracted(tmp_path / "big.zip", limits=limits):
        pytest.fail("unpacked")


def test_headers_that_claim_too_little_do_not_help(tmp_path: Path) -> None:
    path = zip_files(tmp_path / "liar.zip", {"a.dcm": bytes(3 << 20)})
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the size in both headers
        struct.pack_into("<I", raw, raw.find(magic) + offset, 10)
    path.write_bytes(raw)
    with pytest.raises(InputError), extracted(path, limits=ZipLimits(max_bytes=1000)):
        pytest.fail("unpacked")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    zip_files(tmp_path / "many.zip", {f"{n}": b"x" for n in range(5)})
    with (
        pytest.raises(InputError, match="holds 5 files"),
        extracted(tmp_path / "many.zip", limits=ZipLimits(max_files=4)),
    ):
        pytest.fail("unpacked")


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zip_files(tmp_path / "ct.zip", {"a.dcm": b"x" * 100})
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag in both headers
        raw[raw.find(magic) + offset] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="encrypted"):
        read_ct(path)


def test_unusual_compression_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ct.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.dcm", b"x" * 100)
    with pytest.raises(InputError, match="unusual compression"):
        read_ct(tmp_path / "ct.zip")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_zip_is_refused(tmp_path: Path, keep: float) -> None:
    path = zip_series(tmp_path / "ct.zip", write_series(tmp_path / "dcm", tiny_hu()))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(InputError, match=r"ct\.zip: the zip is damaged or incomplete.*again"):
        read_ct(path)


def test_damaged_entry_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = zip_series(tmp_path / "ct.zip", write_series(tmp_path / "dcm", tiny_hu()))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_ct(path)


def test_text_under_the_name_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ct.zip").write_text("not a zip")
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_ct(tmp_path / "ct.zip")


def test_empty_zip_is_refused(tmp_path: Path) -> None:
    zip_files(tmp_path / "ct.zip", {})
    with pytest.raises(InputError, match=r"ct\.zip: not a CT in a known format"):
        read_ct(tmp_path / "ct.zip")


def test_dicom_zip_equals_the_folder(tmp_path: Path) -> None:
    files = write_series(tmp_path / "dcm", tiny_hu())
    path = zip_series(tmp_path / "case 7.zip", files)
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.geometry == read_ct(tmp_path / "dcm").geometry
    assert ct.name == "case 7"
    assert ct.fingerprint == fingerprint_of(path)
    assert [info.slices for info in list_series(path)] == [10]


def test_files_of_one_name_in_several_folders_of_a_zip_are_all_read(tmp_path: Path) -> None:
    files = write_series(tmp_path / "dcm", tiny_hu())
    content = {f"{n}/IM.dcm": file for n, file in enumerate(files)}
    np.testing.assert_array_equal(read_ct(zip_files(tmp_path / "ct.zip", content)).hu_kji, tiny_hu())


def test_names_that_differ_in_their_accents_encoding_alone_do_not_share_a_file(tmp_path: Path) -> None:
    names = ("K\u00f6rper.dcm", "Ko\u0308rper.dcm")
    with extracted(zip_files(tmp_path / "a.zip", dict.fromkeys(names, b"x"))) as files:
        assert len({file.parent for file in files}) == 2


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha"])
def test_zip_with_one_image_is_read(tmp_path: Path, name: str) -> None:
    image = write_image(tmp_path / name, tiny_hu())
    junk = {"__MACOSX/._" + name: b"x", "README.txt": b"x", ".DS_Store": b"x"}
    ct = read_ct(zip_files(tmp_path / "case.zip", {f"deep/down/{name}": image, **junk}))
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.name == "case"


def test_zip_with_an_image_of_a_long_name_is_read(tmp_path: Path) -> None:
    image = write_image(tmp_path / "ct.nii.gz", tiny_hu())
    path = zip_files(tmp_path / "case.zip", {f"{'x' * 120}.nii.gz": image})
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


def test_zip_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zip_files(tmp_path / "ct.zip", {"a.dcm": bytes(2000)})
    for free, fits in ((2000, True), (1999, False)):  # beyond 64 MiB that are left alone
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free + (64 << 20)))
        refusal = nullcontext() if fits else pytest.raises(InputError, match="the free space")
        with refusal, extracted(tmp_path / "ct.zip") as files:
            assert len(files) == 1


@pytest.mark.parametrize("stem", ["my ct (2)", "Lungenöffnung, 肺 [1]", "ct-" + 100 * "x"])
def test_zip_with_a_header_and_its_voxels_is_read_under_their_names(tmp_path: Path, stem: str) -> None:
    header = write_image(tmp_path / f"{stem}.mhd", tiny_hu())
    pair = {name: (tmp_path / name).read_bytes() for name in (header.name, f"{stem}.raw")}
    np.testing.assert_array_equal(read_ct(zip_files(tmp_path / "case.zip", pair)).hu_kji, tiny_hu())


@pytest.mark.parametrize("name", ["ct.nhdr", "ct.mhd"])
def test_header_in_a_zip_cannot_name_voxels_outside_of_it(tmp_path: Path, name: str) -> None:
    header = write_image(tmp_path / name, tiny_hu())
    for place in (tmp_path / "ct.raw", Path("../ct.raw")):
        (tmp_path / "temporary" / "ct.raw").write_bytes(tiny_hu().tobytes())  # where "../" leads once unpacked
        raw = header.read_bytes().replace(b"ct.raw", str(place).encode())
        with pytest.raises(InputError, match="is not beside it"):
            read_ct(zip_files(tmp_path / "case.zip", {name: raw}))
        (tmp_path / "temporary" / "ct.raw").unlink()


def test_zip_with_several_images_takes_imaging_or_asks(tmp_path: Path) -> None:
    image = write_image(tmp_path / "ct.nii.gz", tiny_hu())
    both = zip_files(tmp_path / "a.zip", {"x/imaging.nii.gz": image, "x/segmentation.nii.gz": image})
    np.testing.assert_array_equal(read_ct(both).hu_kji, tiny_hu())
    with pytest.raises(InputError, match=r"2 images \(one\.nii\.gz, two\.nii\.gz\)"):
        read_ct(zip_files(tmp_path / "b.zip", {"one.nii.gz": image, "two.nii.gz": image}))


def test_zip_in_a_zip_is_not_opened(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.dcm", b"x")
    files = {"x/CT 2.ZIP": inner.getvalue(), "notes": b"x"}
    with pytest.raises(InputError, match=r"ct\.zip: the zip holds another zip \('CT 2\.ZIP'\) and no CT\. Unpack it"):
        read_ct(zip_files(tmp_path / "ct.zip", files))
    image = write_image(tmp_path / "ct.nii.gz", tiny_hu())
    np.testing.assert_array_equal(
        read_ct(zip_files(tmp_path / "ct.zip", {**files, "ct.nii.gz": image})).hu_kji, tiny_hu()
    )
    with pytest.raises(InputError, match="not a CT in a known format"):
        read_ct(zip_files(tmp_path / "ct.zip", {"notes": b"x"}))


def test_zip_is_recognised_without_its_extension(tmp_path: Path) -> None:
    path = zip_series(tmp_path / "export", write_series(tmp_path / "dcm", tiny_hu()))
    np.testing.assert_array_equal(read_ct(path).hu_kji, tiny_hu())


@pytest.mark.parametrize("name", ["nul", "aux.dcm", "COM1.nii.gz", "con .x", "IM1.", "IM1. .", " "])
def test_files_of_a_zip_get_names_that_windows_takes_and_tells_apart(tmp_path: Path, name: str) -> None:
    with extracted(zip_files(tmp_path / "ct.zip", {"IM1": b"1", f"x/{name}": b"2"})) as files:
        assert [path.read_bytes() for path in files] == [b"1", b"2"]
    assert files[0] != files[1]
    assert not PureWindowsPath(files[1].name).is_reserved()
    assert files[1].name == files[1].name.strip(" ").rstrip(".")
