"""Every text that the user sees in Slicer can be translated: it is marked by `_("...")` where it is written.

The sources are searched for texts that are not: by where they go (`LABELS`, `CALLS`), and, as a text may take a way
round, for anything of two words or more. The engine's texts have tests of their own; what goes into files is English.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "CovidSeg"
PANEL_FILES = [
    MODULE / "CovidSeg.py",
    *(MODULE / "CovidSegLib" / f"{name}.py" for name in ("dependencies", "logic", "runner", "widget")),
    *sorted((MODULE / "CovidSegLib" / "panel").glob("*.py")),
]
SCENE_FILES = [MODULE / "CovidSegLib" / "scene.py", *sorted((MODULE / "CovidSegLib" / "scenes").glob("*.py"))]

MARKS = {"_", "translate"}
LABELS = {"text", "toolTip", "title", "windowTitle", "placeholderText", "noneDisplay", "helpText", "plainText"}
"""Attributes that the user sees."""

CALLS: dict[str, tuple[int | str, ...]] = {
    **dict.fromkeys(("setText", "setToolTip", "setWindowTitle", "setTitle", "setFormat", "setStatusTip"), (0,)),
    **dict.fromkeys(("setPlainText", "appendPlainText", "setDetailedText", "setInformativeText"), (0,)),
    **dict.fromkeys(("setHorizontalHeaderLabels", "setVerticalHeaderLabels", "addButton", "addItem", "addItems"), (0,)),
    **dict.fromkeys(("infoDisplay", "warningDisplay", "errorDisplay", "messageBox", "showStatusMessage"), (0,)),
    **dict.fromkeys(("confirmOkCancelDisplay", "confirmYesNoDisplay", "confirmRetryCloseDisplay"), (0,)),
    **dict.fromkeys(("information", "warning", "critical", "question"), (1, 2)),
    **dict.fromkeys(("getSaveFileName", "getOpenFileName", "getExistingDirectory"), (1, 3)),
    "QTableWidgetItem": (0,),
    "drawText": (2,),
    "show_text": (1,),
    "_say": (0,),
    "_show_status": (0,),
    "allow": ("unless",),
    "confirm": (0,),
    "choose": (0, "choices"),
    "file_to_save": (0, "kinds"),
    "folder": (0,),
    "show_details": (0,),
    "Line": (0,),
    "Curve": (0,),
    "Chart": (0, 1, 3, 4, "name", "title", "x_title", "y_title"),
    "add_node": ("name",),
    "show_columns": ("name",),
    "SetName": (0,),
    "SetTitle": (0,),
    "SetXAxisTitle": (0,),
    "SetYAxisTitle": (0,),
    "SetColumnDescription": (1,),
    "CovidSegError": (0,),
    "Cancelled": (0,),
}
"""Functions -> which of their arguments the user sees."""

SAME_IN_ALL_LANGUAGES = {
    "CovidSeg",
    "CovidSeg contributors",
    "CovidSeg - lungs and infection",  # a list of terms, by the name in its file
    "CovidSeg worker",  # a thread, for developers
    "Conversion method",  # Slicer's name of a setting
    "Level tracing",  # Slicer's name of an effect, by which it is found
    "--device cpu",  # of the command line, as its messages name it
    "covidseg quantify",
    "The segments were corrected by hand in 3D Slicer after the network made them.",  # goes into report.json
}


def unmarked(source: str) -> list[str]:
    """Return "line: text" of every text of a Python source that the user sees and nobody can translate."""
    tree = ast.parse(source)
    passed_over = set(_passed_over(tree))
    shown = {text for expression in _shown(tree) for text in _texts(expression) if re.search("[A-Za-z]{2}", text.value)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    prose = {text for text in texts if re.search("[A-Za-z]{2,} [A-Za-z]{2,}", text.value)}
    known = {text for text in texts if text.value.strip() in SAME_IN_ALL_LANGUAGES}
    found = (shown | prose) - passed_over - known
    return [f"{node.lineno}: {node.value}" for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))]


def _passed_over(tree: ast.AST) -> Iterator[ast.AST]:
    """Give what is marked, or says something to developers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in MARKS:
            yield from (inner for argument in node.args for inner in ast.walk(argument))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value  # a docstring


def _shown(tree: ast.AST) -> Iterator[ast.expr]:
    """Give the expressions that the user sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            if any(isinstance(target, ast.Attribute) and target.attr in LABELS for target in node.targets):
                yield node.value
        elif isinstance(node, ast.Call):
            for place in CALLS.get(_name(node.func), ()):
                if isinstance(place, int):
                    yield from node.args[place : place + 1]
                else:
                    yield from (keyword.value for keyword in node.keywords if keyword.arg == place)


def _texts(node: ast.AST) -> Iterator[ast.Constant]:
    """Give the texts that an expression is put together from; keys and arguments of other functions are none."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node
        return
    parts: list[ast.AST] = []
    if isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.BoolOp | ast.JoinedStr):
        parts = list(node.values)
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.FormattedValue | ast.Starred):
        parts = [node.value]
    elif isinstance(node, ast.List | ast.Tuple):
        parts = list(node.elts)
    elif isinstance(node, ast.ListComp | ast.GeneratorExp):
        parts = [node.elt]
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        parts = list(node.value.values)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "join"):
        parts = [node.func.value, *node.args, *(keyword.value for keyword in node.keywords)]
    for part in parts:
        yield from _texts(part)


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", None) or getattr(function, "id", "")


@pytest.mark.parametrize("path", PANEL_FILES, ids=lambda path: path.name)
def test_panel_says_nothing_that_cannot_be_translated(path: Path) -> None:
    assert unmarked(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCENE_FILES, ids=lambda path: path.name)
def test_nodes_tables_and_plots_are_named_in_the_users_language(path: Path) -> None:
    assert unmarked(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "label.text = 'Ready'",
        "button.toolTip = reason or 'Choose'",
        "a.text = b.text = f'{count} CTs'",
        "label.setText(_('Ready') if done else 'Busy')",
        "box.setWindowTitle('Question')",
        "slicer.util.errorDisplay('Failed', windowTitle=TITLE)",
        "qt.QMessageBox.warning(None, _('CovidSeg'), 'Failed')",
        "self._place.allow('button', unless='Busy')",
        "self._say(_('{where}: done').format(where='Here'))",
        "table.setHorizontalHeaderLabels(['Date', _('CT')])",
        "show_text(label, ', '.join(['Infection', name]))",
        "chart.SetTitle('Infection')",
        "context.add_node('vtkMRMLTableNode', name=f'{ct} results')",
        "HINT = 'Press it again'",
        "raise CovidSegError('No CT')",
        "raise InputError(f'No CT in {name}.')",
    ],
)
def test_search_finds_a_text_that_is_not_marked(line: str) -> None:
    assert len(unmarked(f"x = 1\n{line}")) == 1
    assert unmarked(f"x = 1\n{line}")[0].startswith("2: ")


@pytest.mark.parametrize(
    "line",
    [
        "label.text = _('Ready')",
        "label.text = ''",
        "label.text = f'{percent:.1f} %'",
        "label.text = figures['severity']['definition']",
        "self._place.allow('segmentButton', unless=_('A run is under way.'))",
        "self._say(_('Saved {path}.').format(path=path))",
        "context.add_node('vtkMRMLTableNode', name=_('{ct} results').format(ct=ct))",
        "parent.title = _('CovidSeg')",
        "button.connect('clicked(bool)', function)",
        "'''What this is.'''",
    ],
)
def test_search_passes_what_is_marked_or_no_text(line: str) -> None:
    assert unmarked(line) == []
