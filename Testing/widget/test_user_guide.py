"""The user guide speaks of what there is: names as on the panel, messages as they are raised."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")
UI_FILE = ROOT / "CovidSeg" / "Resources" / "UI" / "CovidSeg.ui"
SOURCES = sorted((ROOT / "CovidSeg" / "CovidSegLib").rglob("*.py"))

ELSEWHERE = {"Segment again", "File > Save Data"}
"""What the guide names in bold and the .ui does not: the button's other text, and Slicer's menu."""


def section(first: int, last: int) -> str:
    """Return the guide from one numbered section up to another, on one line."""
    return " ".join(GUIDE[GUIDE.index(f"\n## {first}.") : GUIDE.index(f"\n## {last}.")].split())


def panel_texts() -> set[str]:
    """Return what is written on the panel."""
    strings = ElementTree.parse(UI_FILE).getroot().iter("string")
    return {(string.text or "").replace("&", "").rstrip(":") for string in strings}


def messages() -> Iterator[str]:
    """Give every text of the sources; "{}" stands for what is filled in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"\{.*?\}", "{}", node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def told_in_guide() -> list[str]:
    """Return the pieces of messages that the guide's section 9 explains; "..." and N stand for what is filled in."""
    told = GUIDE[GUIDE.index("\n## 9.") : GUIDE.index("\n## 10.")].splitlines()
    firsts = [row.split("|")[1].strip() for row in told if row.startswith("| ")]
    cells = "; ".join(cell for cell in firsts if cell != "the message says")
    pieces = re.split(r"\.\.\.|;|, |\bN\b|\(warning\)", cells)
    return sorted({piece.strip().lower() for piece in pieces} - {""})


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\*\*(.+?)\*\*", section(3, 9))) - ELSEWHERE))
def test_what_the_guide_names_is_on_the_panel(name: str) -> None:
    assert name in panel_texts()


def test_messages_that_the_guide_explains_exist() -> None:
    text = "\n".join(messages()).lower()
    explained = told_in_guide()
    assert len(explained) > 40
    assert [piece for piece in explained if piece not in text] == []
