"""What the engine says: English everywhere, and ready to be said in another language."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from CovidSegLib import errors
from CovidSegLib.errors import InputError
from CovidSegLib.results import severity
from CovidSegLib.texts import Text, as_text, joined
from CovidSegLib.texts import text as _
from hypothesis import given
from hypothesis import strategies as st

LIB = Path(errors.__file__).parent
SLICER_SIDE = ("widget", "panel/", "scene", "runner", "logic", "dependencies")
"""Files that translate at once; the panel's own tests look through them."""

FILES = {path.relative_to(LIB).as_posix(): path for path in sorted(LIB.rglob("*.py"))}
ENGINE_FILES = {name: path for name, path in FILES.items() if not name.startswith((*SLICER_SIDE, "cli", "commands/"))}
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}

GERMAN = {
    "{file}: slice {slice:03d} is damaged ({reason}).": "Schicht {slice:03d} von {file} ist beschädigt: {reason}.",
    "no pixels": "keine Bildpunkte",
}


def german(_source: str, template: str) -> str:
    return GERMAN.get(template, template)


def damaged(reason: str = "no pixels") -> Text:
    return _("{file}: slice {slice:03d} is damaged ({reason}).").format(file="a.dcm", slice=7, reason=_(reason))


def test_text_is_english_to_everybody_who_does_not_ask() -> None:
    assert damaged() == "a.dcm: slice 007 is damaged (no pixels)."
    assert json.dumps([damaged()]) == '["a.dcm: slice 007 is damaged (no pixels)."]'
    assert str(InputError(damaged())) == damaged()


def test_sentence_is_translated_with_its_values_and_the_texts_among_them() -> None:
    assert damaged().translated(german) == "Schicht 007 von a.dcm ist beschädigt: keine Bildpunkte."


def test_translation_is_looked_up_by_the_file_that_marks_the_text() -> None:
    asked: list[tuple[str, str]] = []

    def note(source: str, template: str) -> str:
        asked.append((source, template))
        return template

    damaged().translated(note)
    assert asked[0] == (Path(__file__).name, "{file}: slice {slice:03d} is damaged ({reason}).")
    assert severity.DEFINITION.source == "results/severity.py", "in its package's folder"


@pytest.mark.parametrize("wrong", ["{datei} ist kaputt", "{file", "{file:d} ist kaputt", "{0} {file}"])
def test_wrong_translation_falls_back_on_english(wrong: str) -> None:
    said = _("{file} is damaged").format(file="a.dcm")
    assert said.translated(lambda _source, _template: wrong) == "a.dcm is damaged"


def test_error_keeps_the_text_for_the_one_who_passes_it_on() -> None:
    inner = InputError(damaged())
    outer = InputError(_("{case}: {problem}").format(case="CT 7", problem=inner.text))
    assert str(outer) == "CT 7: a.dcm: slice 007 is damaged (no pixels)."
    assert outer.text.translated(german).startswith("CT 7: Schicht 007 von a.dcm")
    assert InputError("unmarked").text == "unmarked"
    assert InputError().text == ""


def test_joined_texts_are_translated_one_by_one() -> None:
    both = joined("; ", [damaged(), "CT {7}"])
    assert both == "a.dcm: slice 007 is damaged (no pixels).; CT {7}"
    assert both.translated(german) == "Schicht 007 von a.dcm ist beschädigt: keine Bildpunkte.; CT {7}"
    assert joined("; ", []) == ""


def test_values_are_given_by_name_because_languages_order_them_differently() -> None:
    with pytest.raises(TypeError, match="by name"):
        _("{} is damaged").format("a.dcm")


def test_braces_in_an_unmarked_text_are_left_alone() -> None:
    assert as_text("a {strange} name").translated(german) == "a {strange} name"


VALUES = st.dictionaries(st.sampled_from("abc"), st.text() | st.integers() | st.floats(allow_nan=False), min_size=1)


@given(VALUES)
def test_text_survives_files_and_processes(values: dict[str, object]) -> None:
    said = _("reads " + " and ".join(f"{{{name}}}" for name in values)).format(**values)
    nested = _("{what}!").format(what=said)
    for copy in (Text.from_dict(json.loads(json.dumps(nested.to_dict()))), pickle.loads(pickle.dumps(nested))):
        assert copy == nested
        assert copy.translated(lambda _source, template: template.upper().replace("WHAT", "what")).endswith("!")
        assert copy.translated(lambda _source, template: template) == nested


def test_number_of_numpy_survives_a_file_as_a_number() -> None:
    said = _("{share:.1f} % of {count:d}").format(share=np.float32(1.5), count=np.int16(7))
    assert Text.from_dict(json.loads(json.dumps(said.to_dict()))).translated(german) == "1.5 % of 7"


def raised_unmarked(tree: ast.AST) -> list[int]:
    """Return the lines that raise an error for people with a text that cannot be translated."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ERRORS
        and any(isinstance(argument, ast.Constant | ast.JoinedStr | ast.BinOp) for argument in node.args)
    ]


def mismatched(tree: ast.AST) -> list[int]:
    """Return the lines in which a marked text is no literal, or its names are not those of the values given."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "_" and not _is_literal(node):
            lines.append(node.lineno)
        inner = node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "format" else None
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "_":
            template = ast.literal_eval(inner.args[0])
            names = {name for _text, name, _spec, _how in Formatter().parse(template) if name is not None}
            if names != {keyword.arg for keyword in node.keywords}:
                lines.append(node.lineno)
    return lines


def _is_literal(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and not call.keywords


@pytest.mark.parametrize("path", ENGINE_FILES.values(), ids=ENGINE_FILES)
def test_every_error_of_the_engine_can_be_translated(path: Path) -> None:
    assert raised_unmarked(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_marked_texts_are_literals_whose_names_are_those_of_their_values(path: Path) -> None:
    assert mismatched(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("line", ["raise InputError('no CT')", "raise InputError(f'{x}')", "DeviceError('a' + b)"])
def test_search_finds_an_unmarked_error(line: str) -> None:
    assert raised_unmarked(ast.parse(line)) == [1]


@pytest.mark.parametrize("line", ["_(f'{x}')", "_('{a}').format(b=1)", "_(name)", "_('{a}').format(a=1, b=2)"])
def test_search_finds_a_text_that_tools_cannot(line: str) -> None:
    assert mismatched(ast.parse(line)) == [1]
