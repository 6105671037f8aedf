"""Single keys of a JSON text change, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from CovidSegTraining.product.metadata_text import with_key_behind, without_key

KEY, ANCHOR = "activations", "weights"
#: Among them what a search for the keys might take for them.
STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    st.sampled_from([f'"{KEY}": 1', f'{{"{ANCHOR}": {{', KEY + "s", '"' + ANCHOR, "\\", "x\\", "a, ", "\n  "]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=6,
)
OBJECTS = st.dictionaries(STRINGS, VALUES, max_size=3)
LAYOUTS = st.fixed_dictionaries({"indent": st.sampled_from([None, 0, 1, 2, 4, "\t"]), "ensure_ascii": st.booleans()})


def nested(inner: dict[str, Any], *, around: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an object within others, in each of them as the last key, `covidseg`."""
    for outer in around:
        inner = {**outer, "covidseg": inner}
    return inner


@given(before=OBJECTS, behind=OBJECTS, around=st.lists(OBJECTS, max_size=3), value=VALUES, old=VALUES, layout=LAYOUTS)
def test_key_stands_behind_the_other_one_and_may_be_taken_out_again(
    *,
    before: dict[str, Any],
    behind: dict[str, Any],
    around: list[dict[str, Any]],
    value: Any,
    old: Any,
    layout: dict[str, Any],
) -> None:
    text = json.dumps(nested({**before, ANCHOR: old, **behind}, around=around), **layout)
    found = with_key_behind(text, KEY, value, behind=ANCHOR)
    # As text, because equal objects may have their keys in another order.
    wanted = nested({**before, ANCHOR: old, KEY: value, **behind}, around=around)
    assert json.dumps(json.loads(found)) == json.dumps(wanted)
    assert without_key(found, KEY) == text


@given(of=OBJECTS, layout=LAYOUTS)
def test_text_without_the_key_is_left_as_it_is(of: dict[str, Any], layout: dict[str, Any]) -> None:
    text = json.dumps(of, **layout)
    assert with_key_behind(text, KEY, 1, behind=ANCHOR) == text
    assert without_key(text, KEY) == text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("indent", "inner"), [("  ", "    "), ("      ", "        "), ("\t", "\t  ")])
def test_key_is_indented_as_the_one_before_it(end: str, indent: str, inner: str) -> None:
    lines = ["{", f'{indent}"weights": {{"file": "a"}},', f'{indent}"more": [1,  2]', "}", ""]
    added = [f'{indent}"activations": {{', f'{inner}"file": "ö"', f"{indent}}},"]
    found = with_key_behind(end.join(lines), "activations", {"file": "ö"}, behind="weights")
    assert found == end.join([*lines[:2], *added, *lines[2:]])


def test_key_in_the_same_line_stays_there() -> None:
    found = with_key_behind('{"weights": 1, "more": 2}\n', "activations", {"file": "a", "n": [1]}, behind="weights")
    assert found == '{"weights": 1, "activations": {"file": "a", "n": [1]}, "more": 2}\n'


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ('{"a": 1, "b": {"c": [2, 3]}}', '{"b": {"c": [2, 3]}}'),
        ('{"b": 2, "a": {"a": 1}}', '{"b": 2}'),
        ('{"b": 2,\n "a" : [1, 2] ,\n "c": 3}', '{"b": 2,\n "c": 3}'),
        ('{"b": "\\"a\\": 1", "\\"a": 1, "a": 2}', '{"b": "\\"a\\": 1", "\\"a": 1}'),
        ('[{"a": 1}, {"a": 2}]', '[{}, {"a": 2}]'),
    ],
)
def test_key_goes_with_its_value_and_comma(text: str, without: str) -> None:
    assert without_key(text, "a") == without
