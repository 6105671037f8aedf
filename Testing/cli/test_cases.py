from __future__ import annotations

import errno
import os
import stat
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from CovidSegLib.cases.discovery import discover_cases
from CovidSegLib.errors import InputError
from fake_engine import GEOMETRY, write_ct, write_labels


def _found(*inputs: Path, out: Path) -> dict[str, Path]:
    return {case.name: case.path for case in discover_cases(inputs, out_dir=out).cases}


def _dicom(path: Path, *, study: str, frames: int | None = None) -> Path:
    """Write the head of a DICOM file; finding cases needs no more."""
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = f"{study}.{abs(hash(path.name))}"
    dataset.StudyInstanceUID = study
    dataset.PatientName = "Doe^Jane"
    if frames is not None:
        dataset.NumberOfFrames = frames
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_folder_with_imaging_is_one_case_whatever_lies_beside(tmp_path: Path) -> None:
    imaging = write_ct(tmp_path / "case7" / "imaging.nii.gz")
    write_ct(tmp_path / "case7" / "other.nrrd")
    write_labels(tmp_path / "case7" / "segmentation.nii.gz")
    assert _found(tmp_path / "case7", out=tmp_path / "out") == {"case7": imaging}
    assert _found(imaging, out=tmp_path / "out") == {"case7": imaging}


def test_folder_of_cases_gives_imaging_of_each_else_every_image_that_is_no_labelmap(tmp_path: Path) -> None:
    data = tmp_path / "data"
    expected = {
        "a": write_ct(data / "a" / "imaging.nrrd"),
        "b": write_ct(data / "sub" / "b.mha"),
        "c": write_ct(data / "c.nii"),
    }
    write_ct(data / "a" / "followup.nii.gz")
    write_labels(data / "lungs.nii.gz")
    write_labels(data / "c.seg.nrrd")
    (data / "notes.txt").write_text("notes")
    assert _found(data, out=tmp_path / "out") == expected
    notes = discover_cases([data], out_dir=tmp_path / "out").notes
    assert notes == (f"ignored 2 labelmap(s), the first: {data / 'c.seg.nrrd'}",)
    assert discover_cases([data, data / "sub", data], out_dir=tmp_path / "out").notes == notes, "nothing counts twice"


def test_compressed_ct_is_not_judged_by_a_labelmap_of_its_name_beside_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_labels(data / "a.nii")
    ct = write_ct(tmp_path / "elsewhere" / "a.nii.gz").rename(data / "a.nii.gz")
    assert _found(data, out=tmp_path / "out") == {"a": ct}


def test_results_under_out_are_not_taken_as_input(tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "ct.nii.gz")
    write_ct(tmp_path / "out" / "old" / "something.nrrd")
    assert _found(tmp_path, out=tmp_path / "out") == {"ct": ct}
    notes = discover_cases([tmp_path], out_dir=tmp_path / "out").notes
    assert notes == (f"ignored what lies under the output folder: {tmp_path / 'out'}",)


def test_folder_whose_name_begins_like_that_of_out_is_taken(tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "out-patients" / "ct.nii.gz")
    assert _found(tmp_path, out=tmp_path / "out") == {"ct": ct}


def test_map_of_uncertainty_is_a_result_only_beside_its_labelmap(tmp_path: Path) -> None:
    alone = write_ct(tmp_path / "a" / "uncertainty.nii.gz")
    write_ct(tmp_path / "b" / "uncertainty.nii.gz")
    write_labels(tmp_path / "b" / "labelmap.nii.gz")
    assert _found(tmp_path, out=tmp_path / "out") == {"uncertainty": alone}


@pytest.mark.parametrize(
    ("values", "is_ct"),
    [(range(32), False), (range(33), True), ((-1000, 40), True), ((0.5, 1.0), True), ((0, 7, 255), False)],
)
def test_few_whole_numbers_from_zero_on_are_labels(tmp_path: Path, values: Sequence[float], *, is_ct: bool) -> None:
    import SimpleITK

    shape_kji = GEOMETRY.shape_kji
    array = np.resize(np.array(values, np.float32), shape_kji)
    SimpleITK.WriteImage(GEOMETRY.to_sitk(array), str(tmp_path / "image.nrrd"))
    write_ct(tmp_path / "other.nrrd")
    assert set(_found(tmp_path, out=tmp_path / "out")) == ({"image", "other"} if is_ct else {"other"})


def test_picture_of_two_dimensions_is_a_case_that_reading_refuses(tmp_path: Path) -> None:
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.Image(9, 9, SimpleITK.sitkUInt8), str(tmp_path / "flat.nrrd"))
    assert set(_found(tmp_path, out=tmp_path / "out")) == {"flat"}


@pytest.mark.parametrize("keep", [140, 300, 400])
def test_dicom_cut_short_is_still_a_case(tmp_path: Path, keep: int) -> None:
    file = _dicom(tmp_path / "patient" / "IM1", study="1.2.3")
    file.write_bytes(file.read_bytes()[:keep])
    assert set(_found(tmp_path / "patient", out=tmp_path / "out")) == {"patient"}


def test_out_folder_as_input_is_refused_and_a_folder_inside_out_is_taken(tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "data" / "ct.nii.gz")
    with pytest.raises(InputError, match=r"is the output folder as well.*choose another output folder \(-o OUT\)"):
        discover_cases([tmp_path], out_dir=tmp_path)
    assert _found(tmp_path / "data", out=tmp_path) == {"ct": ct}


def test_damaged_image_is_a_case_so_that_its_failure_is_seen(tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"not an image")
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    assert set(_found(tmp_path, out=tmp_path / "out")) == {"bad", "bad-2"}


def test_empty_mask_is_ignored_and_an_empty_ct_is_not(tmp_path: Path) -> None:
    import SimpleITK

    for name, dtype in (("mask", np.uint8), ("ct", np.int16)):
        image = GEOMETRY.to_sitk(np.zeros(GEOMETRY.shape_kji, dtype=dtype))
        SimpleITK.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    values = np.full(GEOMETRY.shape_kji, np.nan, dtype=np.float32)
    SimpleITK.WriteImage(GEOMETRY.to_sitk(values), str(tmp_path / "nan.nii.gz"))
    assert set(_found(tmp_path, out=tmp_path / "out")) == {"ct", "nan"}


@pytest.mark.parametrize("content", ["", "empty folder", "text", "labelmaps"])
def test_input_with_nothing_usable_is_refused(tmp_path: Path, content: str) -> None:
    given = tmp_path / "given"
    if content == "text":
        given.write_text("hello")
    elif content:
        given.mkdir()
    if content == "labelmaps":
        write_labels(given / "lungs.nii.gz")
    with pytest.raises(InputError, match=r"input '.*given'"):
        discover_cases([write_ct(tmp_path / "good.nii.gz"), given], out_dir=tmp_path / "out")


def test_same_name_gets_numbers_and_same_file_comes_once(tmp_path: Path) -> None:
    first, second = write_ct(tmp_path / "x" / "ct.nii.gz"), write_ct(tmp_path / "y" / "ct.nrrd")
    found = _found(first, second, first, tmp_path / "x", out=tmp_path / "out")
    assert found == {"ct": first, "ct-2": second}


def test_odd_file_names_are_found(tmp_path: Path) -> None:
    cases = {name: name for name in ("with space", "größe", "-leading", "semi;colon", "日本")}
    if os.name != "nt":  # Windows has no such names
        cases |= {"quote'\"": "quote'_", "new\nline": "new_line"}
    for number, name in enumerate(cases):
        write_ct(tmp_path / "in" / f"{name}.nii.gz", seed=number)
    assert set(_found(tmp_path / "in", out=tmp_path / "out")) == set(cases.values())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_name_that_is_no_text_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_ct(tmp_path / "plain.nii.gz").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.nii.gz"))
    assert set(_found(tmp_path / "in", out=tmp_path / "out")) == {"caf_"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ct = write_ct(data / "ct.nii.gz")
    (data / "loop").symlink_to(data, target_is_directory=True)
    (data / "dangling.nii.gz").symlink_to(tmp_path / "nowhere")
    write_ct(tmp_path / "elsewhere" / "far.nii.gz", seed=1)
    (data / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (data / "renamed.nii.gz").symlink_to(ct)
    (data / "result.nii.gz").symlink_to(write_ct(tmp_path / "out" / "old.nii.gz"))
    assert set(_found(data, out=tmp_path / "out")) == {"ct", "far"}
    notes = discover_cases([data], out_dir=tmp_path / "out").notes
    assert notes == (
        f"ignored 1 link(s) to nothing, the first: {data / 'dangling.nii.gz'}",
        f"ignored 1 other path(s) to files that are cases already, the first: {data / 'renamed.nii.gz'}",
    )
    assert discover_cases([ct, ct], out_dir=tmp_path / "out").notes == ()
    with pytest.raises(InputError, match="a link to nothing"):
        discover_cases([data / "dangling.nii.gz"], out_dir=tmp_path / "out")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_out_reached_through_a_link_is_still_left_out(tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "data" / "ct.nii.gz")
    write_ct(tmp_path / "data" / "results" / "old.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "data" / "results", target_is_directory=True)
    assert _found(tmp_path / "data", out=tmp_path / "link") == {"ct": ct}


def test_dicom_study_with_a_folder_per_series_is_one_case(tmp_path: Path) -> None:
    for series in ("scout", "thin", "thick"):
        _dicom(tmp_path / "patient" / series / "IM1", study="1.2.3")
    assert _found(tmp_path / "patient", out=tmp_path / "out") == {"patient": tmp_path / "patient"}


def test_results_inside_a_dicom_study_do_not_split_it_into_its_series(tmp_path: Path) -> None:
    study = tmp_path / "patient"
    for series in ("thin", "thick"):
        _dicom(study / series / "IM1", study="1.2.3")
    write_labels(study / "out" / "patient" / "labelmap.nii.gz")
    assert _found(study, out=study / "out") == {"patient": study}


def test_dicom_studies_are_told_apart_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patient, study in (("p1", "1.2.1"), ("p2", "1.2.2")):
        for series in ("thin", "thick"):
            _dicom(tmp_path / "all" / patient / series / "IM1", study=study)
    monkeypatch.setitem(sys.modules, "pydicom", None)  # importing it fails
    assert set(_found(tmp_path / "all", out=tmp_path / "out")) == {"p1", "p2"}


def test_folder_of_dicom_studies_is_a_case_per_study_named_after_its_folder(tmp_path: Path) -> None:
    for patient, study in (("p1", "1.2.1"), ("p2", "1.2.2")):
        _dicom(tmp_path / "all" / patient / "series" / "IM1", study=study)
    ct = write_ct(tmp_path / "all" / "p3" / "imaging.nii.gz")
    found = _found(tmp_path / "all", out=tmp_path / "out")
    assert found == {"p1": tmp_path / "all" / "p1", "p2": tmp_path / "all" / "p2", "p3": ct}


def test_disc_of_one_study_is_one_case_whatever_its_viewer_brings_along(tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    for series in ("thin", "thick"):
        _dicom(disc / "DICOM" / series / "IM1", study="1.2.3")
    _dicom(disc / "DICOMDIR", study="9")
    write_ct(disc / "viewer" / "logo.nii.gz")
    assert _found(disc, out=tmp_path / "out") == {"disc": disc}


def test_disc_of_several_studies_is_a_case_per_study(tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    for patient, study in (("PT0", "1.2.1"), ("PT1", "1.2.2")):
        for series in ("SE0", "SE1"):
            _dicom(disc / patient / "ST0" / series / "IM1", study=study)
    _dicom(disc / "DICOMDIR", study="9")
    assert _found(disc, out=tmp_path / "out") == {"PT0": disc / "PT0", "PT1": disc / "PT1"}


@pytest.mark.parametrize("names", [("1.dcm", "2.dcm", "3.dcm"), ("IM1", "IM2", "IM3")])
def test_slices_that_a_shell_lists_are_refused_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]
) -> None:
    slices = [_dicom(tmp_path / "series" / name, study="1.2.3") for name in names]
    out = tmp_path / "out"
    with pytest.raises(InputError) as error:
        discover_cases([write_ct(tmp_path / "ct.nii.gz"), *slices], out_dir=out)
    assert str(error.value) == (
        f"several slices of folder '{tmp_path / 'series'}' were given as single DICOM files: give the folder itself."
    )
    assert set(_found(tmp_path / "series", out=out)) == {"series"}
    monkeypatch.chdir(tmp_path / "series")
    with pytest.raises(InputError, match=r"slices of folder '\.' were given"):
        discover_cases(names, out_dir=out)


def test_dicom_files_that_are_no_slices_of_one_folder_are_cases(tmp_path: Path) -> None:
    first, second = (_dicom(tmp_path / name / "IM.dcm", study="1.2.3") for name in ("a", "b"))
    many = [_dicom(tmp_path / "a" / f"{name}.dcm", study="1.2.3", frames=2) for name in ("x", "y")]
    found = _found(first, first, second, *many, out=tmp_path / "out")
    assert found == {"IM": first, "IM-2": second, "x": many[0], "y": many[1]}


def test_zip_is_taken_from_a_folder_only_if_it_holds_dicom(tmp_path: Path) -> None:
    dicom = _dicom(tmp_path / "IM1", study="1.2.3")
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "study.zip", "w") as archive:
        archive.write(dicom, "series/IM1")
    with zipfile.ZipFile(data / "old.zip", "w") as archive:
        archive.writestr("IM1.dcm", dicom.read_bytes()[132:])  # without the preamble that tells it
    with zipfile.ZipFile(data / "code.zip", "w") as archive:
        archive.writestr("main.py", "print()")
    assert _found(data, out=tmp_path / "out") == {"old": data / "old.zip", "study": data / "study.zip"}
    assert discover_cases([data], out_dir=tmp_path / "out").notes == ()


def test_zip_of_other_images_in_a_folder_is_said_to_be_left_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ct = write_ct(data / "ct.nrrd")
    for name in ("one", "two"):
        with zipfile.ZipFile(data / f"{name}.zip", "w") as archive:
            archive.write(ct, "deep/down/ct.nrrd")
    found = discover_cases([data], out_dir=tmp_path / "out")
    assert [case.path for case in found.cases] == [ct]
    assert found.notes == (
        f"ignored 2 zip(s) of other images than DICOM, the first: {data / 'one.zip'} "
        "(unpack such a zip, or give it by itself)",
    )
    assert _found(data / "one.zip", out=tmp_path / "out") == {"one": data / "one.zip"}
    ct.unlink()
    with pytest.raises(InputError, match=r"nothing usable in input .* but zips of other images than DICOM: unpack"):
        discover_cases([data], out_dir=tmp_path / "out")


def test_several_imaging_files_in_a_folder_are_left_to_reading_to_refuse(tmp_path: Path) -> None:
    write_ct(tmp_path / "case" / "imaging.nii.gz")
    write_ct(tmp_path / "case" / "imaging.nrrd")
    assert _found(tmp_path / "case", out=tmp_path / "out") == {"case": tmp_path / "case"}


@pytest.mark.realdata
def test_real_folders_give_their_cts_and_no_labelmaps(data_dir: Path, tmp_path: Path) -> None:
    whole = _found(data_dir / "ct", out=tmp_path / "out")
    assert {"covid_p001_dicom", "ricord_covid", "normal001", "tumour_5mm_soft"} <= set(whole)
    labelled = _found(data_dir / "muller20", data_dir / "lungs", out=tmp_path / "out")
    assert {path.name for path in labelled.values()} == {"imaging.nii.gz"}
    assert {"coronacases_001", "imlab_001", "elastix"} <= set(labelled)


@pytest.mark.parametrize("name", ["System Volume Information", "$RECYCLE.BIN", "__MACOSX", "lost+found"])
def test_what_systems_keep_on_a_drive_for_themselves_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ct = write_ct(tmp_path / "drive" / "ct.nii.gz")
    write_ct(tmp_path / "drive" / name / "deleted.nii.gz")
    _lock(tmp_path / "drive" / name, monkeypatch=monkeypatch)
    assert _found(tmp_path / "drive", out=tmp_path / "out") == {"ct": ct}


def test_hidden_links_of_windows_in_the_documents_do_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct = write_ct(tmp_path / "Documents" / "ct.nii.gz")
    link = tmp_path / "Documents" / "My Music"
    link.mkdir()
    _lock(link, monkeypatch=monkeypatch)
    lstat = Path.lstat
    hidden = SimpleNamespace(st_file_attributes=stat.FILE_ATTRIBUTE_HIDDEN | stat.FILE_ATTRIBUTE_SYSTEM)
    monkeypatch.setattr(Path, "lstat", lambda path: hidden if path == link else lstat(path))
    assert _found(tmp_path / "Documents", out=tmp_path / "out") == {"ct": ct}


def _lock(folder: Path, *, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody list what is in a folder."""
    iterdir = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path == folder:
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refused)
