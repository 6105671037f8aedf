"""Any error in one line: what is wrong and what to do, still a text that can be translated."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from CovidSegLib.errors import InputError, ModelError
from CovidSegLib.failures import explain, is_unexpected, one_line
from CovidSegLib.texts import Text, joined
from CovidSegLib.texts import text as _
from hypothesis import given
from hypothesis import strategies as st

WRAPPED = "ITK ERROR: cannot read\n    the header\r\n\n"


def german(_source: str, template: str) -> str:
    return {"{file}: {problem} ({mm:.1f} mm).": "{problem} in {file}, {mm:.1f} mm."}.get(template, template)


def broken(file: object = "a.nii", problem: str = WRAPPED) -> Text:
    return _("{file}: {problem} ({mm:.1f} mm).").format(file=file, problem=problem, mm=8)


def test_line_breaks_and_the_blanks_around_them_are_folded() -> None:
    assert one_line("  ITK ERROR:\n\n\t cannot  read\r\n") == "ITK ERROR: cannot  read"


@pytest.mark.parametrize("said", ["", "a  b.nii: no image", " '/data/two  blanks.nii' ", "tab\tin it"])
def test_text_of_one_line_is_returned_as_it_is(said: str) -> None:
    assert one_line(said) is said


def test_text_of_several_lines_can_still_be_translated() -> None:
    folded = one_line(broken())
    assert folded == "a.nii: ITK ERROR: cannot read the header (8.0 mm)."
    assert isinstance(folded, Text)
    assert folded.source == Path(__file__).name
    assert folded.translated(german) == "ITK ERROR: cannot read the header in a.nii, 8.0 mm."


@pytest.mark.parametrize("kind", [str, Path])
def test_file_name_with_two_blanks_keeps_them_beside_a_wrapped_problem(kind: type) -> None:
    folded = one_line(broken(file=kind("two  blanks.nii")))
    assert folded.startswith("two  blanks.nii: ITK ERROR: cannot read the header")
    assert isinstance(folded, Text)
    assert "in two  blanks.nii, 8.0" in folded.translated(german)


def test_texts_within_texts_are_folded_too() -> None:
    folded = one_line(joined("; \n", [broken(), broken(file=Path("new\nline.nii"))]))
    assert isinstance(folded, Text)
    end = "ITK ERROR: cannot read the header in {}, 8.0 mm."
    assert folded.translated(german) == f"{end.format('a.nii')}; {end.format('new line.nii')}"


@given(st.text(alphabet="a {}\n\r\t\u2028"))
def test_every_text_becomes_one_line_in_every_language(value: str) -> None:
    plain, marked = one_line(value), one_line(_("<{value}>").format(value=value))
    assert len(plain.splitlines()) <= 1
    assert isinstance(marked, Text)
    for said in (marked, marked.translated(lambda _source, template: template)):
        assert len(said.splitlines()) == 1
    assert one_line(plain) == plain
    assert plain.split() == value.split()


def test_error_of_several_lines_is_explained_in_one_that_can_be_translated() -> None:
    explained = explain(InputError(broken()))
    assert isinstance(explained, Text)
    assert explained.translated(german).startswith("ITK ERROR: cannot read the header in a.nii")


@pytest.mark.parametrize(
    ("error", "unexpected"),
    [
        (ValueError("index"), True),
        (KeyError("spacing"), True),
        (ModelError("damaged"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (MemoryError(), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_what_its_message_does_not_explain_is_unexpected(error: BaseException, unexpected: bool) -> None:
    assert is_unexpected(error) is unexpected
    assert ("report it with its details" in explain(error)) is unexpected


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error: check the disk"),
        (OSError(errno.EIO, "Input/output error", "a  b.nii"), "Input/output error 'a  b.nii': check the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "a.nii"), "no permission for 'a.nii': check its rights"),
        (PermissionError(errno.EACCES, "Permission denied"), "no permission for a file: check its rights"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: free some space"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory on the GPU: close other programs"),
    ],
)
def test_error_of_the_system_says_what_to_do_and_names_the_file_if_it_is_known(error: OSError, said: str) -> None:
    assert explain(error).startswith(said)
