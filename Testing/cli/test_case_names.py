from __future__ import annotations

import os
from pathlib import Path

import pytest
from CovidSegLib.cases.names import NameBook, case_name_of, safe_case_name
from hypothesis import given
from hypothesis import strategies as st

#: Files elsewhere; on Windows, paths that end so lead to a device.
RESERVED_ON_WINDOWS = [
    pytest.param(f"x/{file}", name, marks=pytest.mark.skipif(os.name == "nt", reason="Windows has no such files"))
    for file, name in [
        ("CON.nii.gz", "CON_"),
        ("lpt1.ct.nrrd", "lpt1_.ct"),
        ("aux .ct.nrrd", "aux _.ct"),
        ("COM¹.nii", "COM¹_"),
        ("conout$.nii", "conout$_"),
    ]
]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/ct.nii.gz", "ct"),
        ("x/patient.01.NII.GZ", "patient.01"),
        ("x/ct.mha", "ct"),
        ("x/study 7.zip", "study 7"),
        ("x/case4/imaging.nii.gz", "case4"),
        ("x/case4/Imaging.nrrd", "case4"),
        ("x/-dash.nii", "-dash"),
        ("x/Lunge_größer.nrrd", "Lunge_größer"),
        *RESERVED_ON_WINDOWS,
        ("x/trailing. .nii", "trailing"),
        ("x/ leading.nii", "leading"),
        ("x/delete\x7f.nii", "delete_"),
        ("x/caf\udce9.nii", "caf_"),
        (f"x/{'a' * 300}.nii", "a" * 180),
        (f"x/{'ä' * 300}.nii", "ä" * 90),
        (f"x/{'a' * 179}. b.nii", "a" * 179),
        ("x/.hidden.nii", "_hidden"),
        ("x/...nii", "case"),
        ("x/=1+1.nii.gz", "_1+1"),
        ("x/+2.nii", "_2"),
        ("x/@SUM(A1).nrrd", "_SUM(A1)"),
    ],
)
def test_case_is_named_after_file_or_parent_of_imaging(path: str, name: str) -> None:
    assert case_name_of(Path(path)) == name


def test_folder_keeps_dots_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "1.2.840.nii"
    folder.mkdir()
    assert case_name_of(folder) == "1.2.840.nii"


def test_folder_given_by_dots_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patient" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "patient" / "sub")
    assert case_name_of(Path("..")) == "patient"
    assert case_name_of(Path(".")) == "sub"
    assert case_name_of(Path("../imaging.nii.gz")) == "patient"


def test_names_differ_where_the_file_system_ignores_case_or_accent_encoding() -> None:
    book = NameBook()
    claimed = [book.claim(name) for name in ("ct", "CT", "ct", "caf\u00e9", "cafe\u0301", "summary.csv", "ct-2")]
    assert claimed == ["ct", "CT-2", "ct-3", "caf\u00e9", "cafe\u0301-2", "summary.csv-2", "ct-2-2"]
    assert book.claim("Run.json") == "Run.json-2"


@given(st.text(st.characters(codec=None), max_size=300))
def test_any_text_becomes_a_name_that_every_file_system_takes(raw: str) -> None:
    name = safe_case_name(raw)
    assert name
    assert not set(name) & set('<>:"/\\|?*\0\n')
    assert not name.startswith((".", " ", "=", "+", "@"))
    assert not name.endswith((".", " "))
    assert len(name.encode("utf-8")) <= 180
    assert safe_case_name(name) == name
