from __future__ import annotations

import json
from pathlib import Path

import pytest
from CovidSegLib.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

from CovidSegTraining.splits import (
    Fold,
    are_original,
    find_cases,
    k_folds,
    original_folds,
    patient_of,
    read_folds,
    read_patients,
    restrict_folds,
    shared_patients,
    write_folds,
    write_whole,
)


def test_original_folds_measure_each_of_20_cases_once() -> None:
    folds = original_folds()
    measured = [case for fold in folds for case in fold.validation]
    assert [len(fold.validation) for fold in folds] == [4] * 5
    assert len(set(measured)) == 20
    assert all(set(fold.training) == set(measured) - set(fold.validation) for fold in folds)


def test_original_folds_have_two_patients_on_both_sides() -> None:
    shared = [str(one).partition(" is ")[0] for one in shared_patients(original_folds())]
    assert shared == [
        "fold_0: patient radiopaedia_29",
        "fold_2: patient radiopaedia_10",
        "fold_3: patient radiopaedia_10",
        "fold_3: patient radiopaedia_29",
    ]


@pytest.mark.realdata
def test_original_folds_are_those_of_the_papers_records(data_dir: Path) -> None:
    assert read_folds(data_dir / "muller20" / "paper" / "folds.json") == original_folds()


def test_original_folds_without_the_missing_cases() -> None:
    present = [case for case in original_folds()[0].training if case.startswith("coronacases")]
    present += ["coronacases_001", "radiopaedia_27_86410_0"]
    folds, missing = restrict_folds(original_folds(), present=present)
    assert folds[0].validation == ("coronacases_001",)
    assert "radiopaedia_4_85506_1" in missing and len(missing) == 20 - len(present)
    assert are_original(folds)
    assert not are_original(k_folds(present, k=5, seed=0))
    assert not are_original(folds[:4])
    learns_more = Fold((*folds[0].training, "radiopaedia_30_1_0"), folds[0].validation)
    assert not are_original([learns_more, *folds[1:]])


def test_fold_left_without_cases_is_refused() -> None:
    present = ["coronacases_001", "coronacases_007"]
    with pytest.raises(InputError, match="fold_2 has no case for validation"):
        restrict_folds(original_folds(), present=present)


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("radiopaedia_10_85902_1", "radiopaedia_10"),
        ("radiopaedia_10_85902_3", "radiopaedia_10"),
        ("radiopaedia_29_86490_1", "radiopaedia_29"),
        ("radiopaedia_29_86491_1", "radiopaedia_29"),
        ("coronacases_001", "coronacases_001"),
        ("radiopaedia", "radiopaedia"),
    ],
)
def test_patient_by_the_name_of_the_case(case: str, patient: str) -> None:
    assert patient_of(case) == patient


def test_given_patients_come_before_names() -> None:
    assert patient_of("radiopaedia_10_85902_1", patients={"radiopaedia_10_85902_1": "a"}) == "a"
    assert patient_of("coronacases_001", patients={"other": "a"}) == "coronacases_001"


@given(st.lists(st.integers(1, 4), min_size=6, max_size=15), st.integers(2, 6), st.integers(0, 99))
def test_made_folds_deal_every_case_once_and_no_patient_twice(sizes: list[int], k: int, seed: int) -> None:
    patients = {f"case_{p}_{n}": f"patient_{p}" for p, size in enumerate(sizes) for n in range(size)}
    folds = k_folds(list(patients), k=k, seed=seed, patients=patients)
    assert sorted(case for fold in folds for case in fold.validation) == sorted(patients)
    assert all(set(fold.training) | set(fold.validation) == set(patients) for fold in folds)
    assert shared_patients(folds, patients=patients) == []
    counts = [len(fold.validation) for fold in folds]
    assert max(counts) - min(counts) <= max(sizes)
    assert folds == k_folds(list(patients)[::-1], k=k, seed=seed, patients=patients)


@pytest.mark.parametrize("seed", range(5))
def test_patient_of_many_cases_is_dealt_first(seed: int) -> None:
    cases = [f"case_{n}" for n in range(8)]
    folds = k_folds(cases, k=2, seed=seed, patients=dict.fromkeys(cases[:4], "one"))
    assert sorted(len(fold.validation) for fold in folds) == [4, 4]


def test_another_seed_deals_otherwise() -> None:
    cases = [f"case_{n:02}" for n in range(20)]
    assert k_folds(cases, k=5, seed=0) != k_folds(cases, k=5, seed=1)
    # Kept as they are, so that a run can be repeated with any version.
    assert k_folds(cases[:6], k=3, seed=7)[0].validation == ("case_00", "case_04")


@pytest.mark.parametrize(
    ("cases", "k", "message"),
    [
        (["a"], 5, "1 patients cannot be dealt to 5 folds"),
        (["radiopaedia_10_1_1", "radiopaedia_10_1_3"], 2, "1 patients cannot be dealt"),
        (["a", "b"], 1, "no cross-validation"),
        (["a", "b", "a"], 2, "'a' is named twice"),
    ],
)
def test_impossible_folds_are_refused(cases: list[str], k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        k_folds(cases, k=k, seed=0)


def test_folds_are_read_as_written(tmp_path: Path) -> None:
    folds = k_folds(["a", "b", "c", "d"], k=2, seed=0)
    write_folds(tmp_path / "new" / "folds.json", folds)
    assert read_folds(tmp_path / "new" / "folds.json") == folds
    assert json.loads((tmp_path / "new" / "folds.json").read_text())["fold_1"]["validation"] == [*folds[1].validation]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folds.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "expected"),
        ("{}", "expected"),
        ('{"fold_1": {"training": ["a"], "validation": ["b"]}}', "expected"),
        ('{"fold_0": {"training": ["a"]}}', "key 'fold_0.validation' is missing"),
        ('{"fold_0": {"training": ["a"], "validation": [3]}}', r"fold_0.validation\[0\] must be text"),
        ('{"fold_0": {"training": ["a"], "validation": []}}', "no case for validation"),
        ('{"fold_0": {"training": ["a", "b"], "validation": ["b"]}}', "'b' in training and in validation"),
        ('{"fold_0": {"training": ["a", "a"], "validation": ["b"]}}', "'a' twice"),
        (
            '{"fold_0": {"training": ["a"], "validation": ["b"]}, "fold_1": {"training": ["a"], "validation": ["b"]}}',
            "'b' is in the validation of two folds",
        ),
        (
            '{"fold_0": {"training": ["radiopaedia_10_85902_1"], "validation": ["radiopaedia_10_85902_3"]}}',
            "patient radiopaedia_10 is in training",
        ),
    ],
)
def test_bad_folds_are_refused_by_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "folds.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_folds(path)
    assert str(error.value).count(str(path)) == 1


def test_shared_patient_by_mapping_is_refused(tmp_path: Path) -> None:
    write_folds(tmp_path / "folds.json", [Fold(("a",), ("b",))])
    (tmp_path / "patients.json").write_text('{"a": "x", "b": "x"}')
    patients = read_patients(tmp_path / "patients.json")
    with pytest.raises(InputError, match="patient x is in training"):
        read_folds(tmp_path / "folds.json", patients=patients)


def test_missing_files_and_other_json_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_folds(tmp_path / "nothing.json")
    (tmp_path / "patients.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="both as text"):
        read_patients(tmp_path / "patients.json")


def test_cases_are_folders_with_image_and_segmentation(tmp_path: Path) -> None:
    for name in ("b/imaging.nii.gz", "b/segmentation.nii.gz", "a/imaging.nii.gz", "paper/folds.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"a: no segmentation\.nii\.gz"):
        find_cases(tmp_path)
    (tmp_path / "a" / "segmentation.nii.gz").touch()
    (tmp_path / ".a").mkdir()
    (tmp_path / ".a" / "imaging.nii.gz").touch()  # hidden, as editors and file servers leave them
    assert find_cases(tmp_path) == ["a", "b"]
    with pytest.raises(InputError, match="no cases"):
        find_cases(tmp_path / "a")


@pytest.mark.parametrize("lone", ["segmentation.nii.gz", "segmentation.nii", "imaging.nii", "imaging.nrrd"])
def test_case_without_its_ct_is_not_left_out_in_silence(tmp_path: Path, lone: str) -> None:
    for name in ("a/imaging.nii.gz", "a/segmentation.nii.gz", f"b/{lone}", "c/segmentation.seg.nrrd", "c/imaging.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"b: no imaging\.nii\.gz; add it, or take the case out of the folder"):
        find_cases(tmp_path)
    (tmp_path / "b" / lone).unlink()
    assert find_cases(tmp_path) == ["a"]  # what the product made of a CT is no case


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "taken", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_folder_in_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as raised:
        write_whole(tmp_path, b"x")
    assert raised.value.filename == str(tmp_path)
    assert not tmp_path.with_name(tmp_path.name + ".part").exists()
