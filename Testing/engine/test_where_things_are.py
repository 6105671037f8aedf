"""What the documents say of files: CONTRIBUTING knows every module at the top, and no document names a lost file."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "CovidSeg" / "CovidSegLib", ROOT / "CovidSegTraining")
TABLES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where things are")[1].split("### Tests")[0]
NAMED = set(re.findall(r"[`/]([a-z0-9_]+\*?)(?:\.py)?`", TABLES))
#: Named there, but no modules of CovidSeg.
OTHERS = {"segment", "read_ct"}
#: Not the changelog, which tells of files that were.
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "CovidSegTraining").rglob("*.md"),
    *(ROOT / "CovidSegTraining").rglob("*.yaml"),
    *(ROOT / "CovidSeg").rglob("*.md"),
    *(ROOT / "Testing").rglob("*.md"),
]


def modules(package: Path) -> list[Path]:
    return [path for path in package.rglob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.name))
def test_contributing_names_every_module_at_the_top_and_every_package(package: Path) -> None:
    top = {path.stem for path in modules(package) if path.parent == package}
    folders = {path.parent.name for path in modules(package) if path.parent != package}
    assert sorted((top | folders) - NAMED) == []


def test_contributing_names_no_module_that_is_not_there() -> None:
    there = {name for package in PACKAGES for path in modules(package) for name in (path.stem, path.parent.name)}
    lost = [name for name in NAMED - OTHERS if not any(fnmatch(module, name) for module in there)]
    assert sorted(lost) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_document_names_no_file_that_is_not_there(document: Path) -> None:
    named = set(re.findall(r"(?<![\w/.-])(?:[\w-]+/)*\w+\.py\b", document.read_text(encoding="utf-8")))
    folders = (
        ROOT,
        ROOT / "CovidSeg",
        ROOT / "CovidSeg" / "Scripts",
        ROOT / "Testing" / "widget",
        *PACKAGES,
        document.parent,
    )
    assert sorted(name for name in named if not any((folder / name).exists() for folder in folders)) == []
