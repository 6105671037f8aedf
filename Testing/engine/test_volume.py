"""What a path may be: names, folders, fingerprints, and paths that hold no CT."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.readers.inputs import case_name
from CovidSegLib.segmentation_file import write_seg_nrrd
from CovidSegLib.volume import fingerprint_of, list_series, read_ct
from helpers_ct_files import tiny_hu, write_image, write_series, zip_series


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/ct.nii.gz", "ct"),
        ("a/ct.NII.GZ", "ct"),
        ("a/ct.v1.nii.gz", "ct.v1"),
        ("a/p 1.nrrd", "p 1"),
        ("a/export.zip", "export"),
        ("case7/imaging.nii.gz", "case7"),
        ("case7/imaging.nrrd", "case7"),
        ("case7/imaging2.nii.gz", "imaging2"),
        ("a/.nii.gz", "case"),
        ("a/Lungenöffnung.mha", "Lungenöffnung"),
    ],
)
def test_case_is_named_after_its_file(tmp_path: Path, path: str, name: str) -> None:
    assert case_name(tmp_path / path) == name


def test_case_is_named_after_its_folder_in_full(tmp_path: Path) -> None:
    (tmp_path / "patient.1").mkdir()
    assert case_name(tmp_path / "patient.1") == "patient.1"


def test_relative_paths_give_the_real_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "case9"
    folder.mkdir()
    write_image(folder / "imaging.nii.gz", tiny_hu())
    monkeypatch.chdir(folder)
    assert read_ct("imaging.nii.gz").name == "case9"
    assert read_ct(".").name == "case9"


@pytest.mark.parametrize("name", ["imaging.nii.gz", "Imaging.NRRD"])
def test_folder_with_imaging_is_that_one_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "case3"
    folder.mkdir()
    image = write_image(folder / name.lower(), tiny_hu()).rename(folder / name)
    write_image(folder / "segmentation.nii.gz", (tiny_hu() > 0).astype(np.uint8))
    ct = read_ct(folder)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.name == "case3"
    assert ct.fingerprint == read_ct(image).fingerprint == fingerprint_of(folder)


def test_folder_with_two_imaging_files_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "imaging.nii.gz", tiny_hu())
    write_image(tmp_path / "imaging.nrrd", tiny_hu())
    with pytest.raises(InputError, match=r"imaging\.nii\.gz, imaging\.nrrd"):
        read_ct(tmp_path)


def test_missing_path_empty_folder_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_ct(tmp_path / "nothing.nii.gz")
    with pytest.raises(InputError, match="no such file or folder"):
        list_series(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder is empty"):
        read_ct(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no CT")
    with pytest.raises(InputError, match="no CT in this folder"):
        read_ct(tmp_path / "text")
    with pytest.raises(InputError, match=r"notes\.txt: not a CT in a known format"):
        read_ct(tmp_path / "text" / "notes.txt")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.zip", "a.dcm"])
@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", bytes(400), b"PK\x03\x04", b"NRRD0004\n", b"\xff" * 1000])
def test_rubbish_under_any_name_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_ct(tmp_path / name)


@pytest.mark.parametrize("value", [0, 3])
def test_segmentation_given_instead_of_a_ct_is_refused_as_one(tmp_path: Path, value: int) -> None:
    import SimpleITK as sitk

    path = tmp_path / "corrected.seg.nrrd"
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[2:5, 3:6, 4:8] = value
    write_seg_nrrd(path, labelmap_kji=labels, geometry=Geometry((14, 12, 10), (1.0, 1.0, 2.0)))
    layers = sitk.ReadImage(str(path))
    one_layer = sitk.VectorIndexSelectionCast(layers, 0)
    one_layer.SetMetaData("Segment0_ID", "left_lung")
    sitk.WriteImage(one_layer, str(tmp_path / "one.seg.nrrd"))  # as Slicer saves segments that do not overlap
    for file in (path, tmp_path / "one.seg.nrrd"):
        with pytest.raises(InputError) as error:
            read_ct(file)
        assert str(error.value) == f"{file}: this is a segmentation, not a CT. Give the CT it belongs to."


def test_labelmap_given_instead_of_a_ct_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "segmentation.nii.gz", (tiny_hu() > 0).astype(np.uint8) * 3)
    with pytest.raises(InputError, match=r"segmentation\.nii\.gz: this looks like a labelmap"):
        read_ct(path)


def test_series_can_be_chosen_in_dicom_only(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.nii.gz", tiny_hu())
    with pytest.raises(InputError, match="DICOM only"):
        read_ct(path, series="2")
    assert list_series(path) == []


def test_folder_with_one_image_is_that_image_and_with_two_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    write_image(folder / "scan.nrrd", tiny_hu())
    assert read_ct(folder).name == "case"
    write_image(folder / "other.nii", tiny_hu())
    with pytest.raises(InputError, match="2 images"):
        read_ct(folder)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    zip_series(tmp_path / "ct.zip", write_series(tmp_path / "dcm", tiny_hu()))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    read_ct(tmp_path / "ct.zip")
    read_ct(tmp_path / "dcm")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_fingerprint_follows_content_not_names_or_places(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", tiny_hu())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for number, file in enumerate(sorted((tmp_path / "b").iterdir(), reverse=True)):
        file.rename(file.with_name(f"renamed_{number:02d}.dcm"))
    first = fingerprint_of(tmp_path / "a")
    assert first.startswith("sha256:") and len(first) == 7 + 64
    assert fingerprint_of(tmp_path / "b") == first == read_ct(tmp_path / "a").fingerprint
    raw = bytearray(files[0].read_bytes())
    raw[-1] ^= 1
    files[0].write_bytes(raw)
    assert fingerprint_of(tmp_path / "a") != first


def test_results_written_below_a_dicom_folder_do_not_change_its_fingerprint(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu())
    first = fingerprint_of(tmp_path)
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "labelmap.nii.gz", (tiny_hu() > 0).astype(np.uint8))
    assert fingerprint_of(tmp_path) == first
    np.testing.assert_array_equal(read_ct(tmp_path).hu_kji, tiny_hu())


@pytest.mark.parametrize("name", ["$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".Trashes", "lost+found"])
def test_slices_in_the_trash_of_a_drive_are_not_read(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path, tiny_hu())
    before = fingerprint_of(tmp_path)
    (tmp_path / name / "S-1-5-21").mkdir(parents=True)
    shutil.copyfile(files[3], tmp_path / name / "S-1-5-21" / "$R1A2B3C.dcm")
    assert np.array_equal(read_ct(tmp_path).hu_kji, tiny_hu())
    assert fingerprint_of(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_linked_folders_of_a_study_are_read_once_and_none_around_it(tmp_path: Path) -> None:
    write_series(tmp_path / "archive" / "s1", tiny_hu())
    write_series(tmp_path / "other", tiny_hu(shape_kji=(14, 12, 14)), number=9)
    study = tmp_path / "study"
    study.mkdir()
    for name, target in (("a", "archive"), ("b", "archive"), ("loop", "study"), ("up", ".")):
        (study / name).symlink_to(tmp_path / target, target_is_directory=True)
    np.testing.assert_array_equal(read_ct(study).hu_kji, tiny_hu())
    assert [found.number for found in list_series(study)] == [3]
    assert read_ct(study).warnings == ()
    assert fingerprint_of(study) == fingerprint_of(tmp_path / "archive")


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be read, in a study beside one that can be."""
    write_series(tmp_path / "study" / "locked", tiny_hu())
    write_series(tmp_path / "study" / "open", tiny_hu(), number=9)
    list_folder = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return tmp_path / "study" / "locked"


@pytest.mark.usefixtures("locked")
def test_folder_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    for read in (read_ct, list_series, fingerprint_of):
        with pytest.raises(InputError, match=r"study: cannot be read \(Permission denied\)"):
            read(tmp_path / "study")


def test_link_that_windows_hides_in_the_documents_is_left_out(
    tmp_path: Path, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = Path.lstat
    hidden = SimpleNamespace(st_file_attributes=stat.FILE_ATTRIBUTE_HIDDEN | stat.FILE_ATTRIBUTE_SYSTEM)
    monkeypatch.setattr(Path, "lstat", lambda path: hidden if path == locked else lstat(path))
    assert [found.number for found in list_series(tmp_path / "study")] == [9]


def test_two_files_with_one_content_have_one_fingerprint(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.nii.gz", tiny_hu())
    shutil.copy(path, tmp_path / "b.nii.gz")
    assert (
        fingerprint_of(path)
        == fingerprint_of(tmp_path / "b.nii.gz")
        != fingerprint_of(write_image(tmp_path / "c.nii.gz", tiny_hu(seed=1)))
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "ct.nii.gz", tiny_hu())
    path.chmod(0)
    with pytest.raises(InputError, match="permissions"):
        read_ct(path)


@pytest.mark.parametrize("read", [read_ct, list_series])
def test_fault_of_the_disk_is_an_input_error(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setattr("CovidSegLib.readers.dicom.read_header", faulty)
    with pytest.raises(InputError, match=r"cannot be read \(Input/output error\)"):
        read(tmp_path)


def test_ct_that_does_not_fit_into_memory_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    path = write_image(tmp_path / "ct.nrrd", tiny_hu())
    monkeypatch.setattr("CovidSegLib.volume.read_nrrd", full)
    with pytest.raises(InputError, match=r"ct\.nrrd: too large for this computer's memory"):
        read_ct(path)


@pytest.mark.realdata
def test_every_real_ct_is_accepted_and_every_real_labelmap_refused(data_dir: Path) -> None:
    cts = [*sorted(data_dir.glob("ct/*.nii.gz")), *sorted(data_dir.glob("*/*/imaging.nii.gz"))]
    assert cts
    for path in cts:
        ct = read_ct(path)
        assert ct.hu_kji.dtype == np.int16
        assert not [w for w in ct.warnings if not w.startswith(("Thick slices", "Voxels of 3"))], path.name
    for path in sorted(data_dir.glob("*/*/*.nii.gz")):
        if path.name != "imaging.nii.gz":
            with pytest.raises(InputError, match="labelmap"):
                read_ct(path)
