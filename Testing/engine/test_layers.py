"""The layers: imports point one way, and packages rest on each other in one direction only.

Read from the sources, so imports inside functions count; those for types alone (`TYPE_CHECKING`) do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIB, TRAINING = "CovidSegLib", "CovidSegTraining"
FOLDERS = {LIB: ROOT / "CovidSeg" / LIB, TRAINING: ROOT / TRAINING}

#: The layers of CovidSegLib by the first part of a module's name; every other one is of the engine.
LAYERS = {
    "mrml": ("scene", "scenes", "logic", "dependencies"),
    "qt": ("panel", "runner", "widget"),
    "shell": ("cli", "commands"),
}
#: What a layer may import besides itself and the engine. Training prints and ends as the engine's own commands do.
MAY_IMPORT = {"engine": (), "mrml": (), "qt": ("mrml",), "shell": (), "training": ("shell",)}
#: Who may import what comes with Slicer only; `slicer` translates texts and installs packages, too.
MRML_LIBRARIES = ("slicer", "vtk", "vtkmodules", "SampleData")
QT_LIBRARIES = ("qt", "ctk", "PythonQt", "PySide6")
OUTSIDE = {**dict.fromkeys(MRML_LIBRARIES, ("mrml", "qt")), **dict.fromkeys(QT_LIBRARIES, ("qt",))}
#: Files of the Qt layer that stay without Qt, so that they can be read and tested without it.
WITHOUT_QT = ("runner", "panel.export", "panel.progress", "panel.publish", "panel.texts")
#: What every file may rest on, and so itself rests on nothing but its like.
FOUNDATION = ("boxes", "errors", "geometry", "labels", "orient", "progress", "resample", "resources", "texts")


class Import(NamedTuple):
    """An import: by which module (file and line), and of which."""

    importer: str
    imported: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.importer} imports {self.imported}"


def modules(folders: dict[str, Path] = FOLDERS) -> dict[str, Path]:
    """Return the files of both packages by the names they are imported by."""
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
    }


def imports_of(name: str, path: Path, *, known: dict[str, Path]) -> Iterator[Import]:
    """Yield what a file imports, by its absolute name."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parts, *([node.module] if node.module else [])])
            targets = [f"{source}.{alias.name}" for alias in node.names]
            targets = list(dict.fromkeys(target if target in known else source for target in targets))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            targets = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        for target in targets:
            yield Import(name, target, f"{path}:{node.lineno}")  # type: ignore[attr-defined]


def all_imports(folders: dict[str, Path] = FOLDERS) -> list[Import]:
    known = modules(folders)
    return [found for name, path in known.items() for found in imports_of(name, path, known=known)]


def layer_of(module: str) -> str:
    """Return the layer of a module of CovidSegLib or CovidSegTraining."""
    top, _, rest = module.partition(".")
    if top == TRAINING:
        return "training"
    return next((layer for layer, names in LAYERS.items() if rest.split(".")[0] in names), "engine")


def group_of(module: str) -> str:
    """Return the package that a module lies in; a module at the top is its own group."""
    return ".".join(module.split(".")[:2])


def allowed(found: Import) -> bool:
    """Return whether the layer of a file may import what it does."""
    layer, top = layer_of(found.importer), found.imported.split(".")[0]
    if top in QT_LIBRARIES and found.importer.removeprefix(f"{LIB}.") in WITHOUT_QT:
        return False
    if top in FOLDERS:
        return layer_of(found.imported) in (layer, "engine", *MAY_IMPORT[layer])
    return layer in OUTSIDE.get(top, (layer,))


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """Return the nodes that lead back to themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = edges.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    return [node for node in sorted(edges) if node in reached(node)]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return all_imports()


def test_imports_point_one_way(imports: list[Import]) -> None:
    wrong = [str(found) for found in imports if not allowed(found)]
    assert not wrong, "\n".join(wrong)


def test_only_the_console_prints() -> None:
    """The library tells its caller: a default that prints would bring text into the output of other programs."""
    printing = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    }
    assert printing == {f"{LIB}.commands.console"}


def test_foundation_rests_on_itself_alone(imports: list[Import]) -> None:
    base = {f"{LIB}.{name}" for name in FOUNDATION}
    wrong = [
        str(found)
        for found in imports
        if found.importer in base and found.imported.startswith(LIB) and found.imported not in base
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_do_not_import_each_other_in_a_circle(package: str, imports: list[Import]) -> None:
    folders = {group_of(name) for name in modules() if name.count(".") > 1}
    between = [
        found
        for found in imports
        if found.importer.startswith(package)
        and {group_of(found.importer), group_of(found.imported)} <= folders
        and group_of(found.importer) != group_of(found.imported)
    ]
    edges: dict[str, set[str]] = {}
    for found in between:
        edges.setdefault(group_of(found.importer), set()).add(group_of(found.imported))
    circle = cycles(edges)
    wrong = [str(found) for found in between if {group_of(found.importer), group_of(found.imported)} <= set(circle)]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour(imports: list[Import]) -> None:
    edges: dict[str, set[str]] = {}
    for found in imports:
        edges.setdefault(found.importer, set()).add(found.imported)
    circle = set(cycles(edges))
    wrong = [str(found) for found in imports if {found.importer, found.imported} <= circle]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "line", "imported"),
    [
        ("CovidSegLib/quantify.py", "from .cli import main", "CovidSegLib.cli"),
        ("CovidSegLib/readers/a.py", "from ..scenes import texts", "CovidSegLib.scenes.texts"),
        ("CovidSegLib/readers/a.py", "def f():\n    import slicer.util", "slicer.util"),
        ("CovidSegLib/scenes/a.py", "import qt", "qt"),
        ("CovidSegLib/scenes/a.py", "from ..panel import texts", "CovidSegLib.panel"),
        ("CovidSegLib/panel/export.py", "import qt", "qt"),
        ("CovidSegLib/commands/a.py", "from ..logic import CovidSegLogic", "CovidSegLib.logic"),
        ("CovidSegLib/cases/a.py", "import CovidSegTraining.fit", "CovidSegTraining.fit"),
        ("CovidSegTraining/a.py", "from CovidSegLib.scene import SceneContext", "CovidSegLib.scene"),
    ],
)
def test_wrong_import_is_named_with_its_file_and_line(tmp_path: Path, file: str, line: str, imported: str) -> None:
    folders = {package: tmp_path / package for package in FOLDERS}
    for path in (tmp_path / file, tmp_path / "CovidSegLib/scenes/texts.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / file).write_text(f"import json\n{line}\n", encoding="utf-8")
    wrong = [str(found) for found in all_imports(folders) if not allowed(found)]
    name = file.removesuffix(".py").replace("/", ".")
    assert wrong == [f"{tmp_path / file}:{2 + line.count(chr(10))}: {name} imports {imported}"]
