"""The launcher of the journeys says success only if journeys were run and passed; here without the application."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLICER_TESTS = Path(__file__).resolve().parents[1] / "slicer"
LAUNCHER = SLICER_TESTS / "run_in_slicer.py"

PASSES = "def test_a():\n    pass\n"
SKIPPED = "import pytest\n\n@pytest.mark.skip(reason='not here')\ndef test_b():\n    pass\n"


@pytest.fixture
def launcher() -> Any:
    spec = importlib.util.spec_from_file_location("run_in_slicer", LAUNCHER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def verdict(
    launcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., int]:
    """Returns the launcher's code for a file of journeys."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text: str, *options: str) -> int:
        # A name of its own: Python keeps modules by name.
        journeys = tmp_path / f"test_journeys_{abs(hash(text))}.py"
        journeys.write_text(text, encoding="utf-8")
        code = int(launcher.run_journeys(options, journeys=journeys))
        last_line = capsys.readouterr().out.strip().splitlines()[-1]
        assert last_line.startswith("CovidSeg journeys: ")
        assert ("passed;" in last_line) == (code == 0)
        return code

    return run


@pytest.mark.parametrize("text", [PASSES, PASSES + SKIPPED])
def test_journeys_that_pass_are_success(verdict: Callable[..., int], text: str) -> None:
    assert verdict(text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "def test_a():\n    assert False\n",
        SKIPPED,
        "",
        "import pytest\npytest.skip('not here', allow_module_level=True)\n",
        "1 / 0\n",
        PASSES + "def test_c():\n    raise SystemExit(0)\n",
        PASSES + "import pytest\n\ndef test_c():\n    pytest.exit('enough', returncode=0)\n",
        PASSES + "import pytest\n\n@pytest.fixture\ndef f():\n    yield\n    1 / 0\n\ndef test_c(f):\n    pass\n",
        "import pytest\n\n@pytest.mark.xfail(reason='known')\ndef test_a():\n    assert False\n",
    ],
    ids=["failed", "skipped", "empty", "skipped file", "broken", "exits", "stops pytest", "clean-up", "only expected"],
)
def test_anything_else_is_failure(verdict: Callable[..., int], text: str) -> None:
    assert verdict(text) != 0


def test_choice_that_leaves_nothing_is_failure(verdict: Callable[..., int]) -> None:
    assert verdict(PASSES, "-k", "nothing_has_this_name") != 0
    assert verdict(PASSES, "--collect-only") != 0


def test_missing_pytest_is_failure_and_says_what_to_do(
    launcher: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    assert launcher.run_journeys() != 0
    assert "PythonSlicer -m pip install pytest" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(0), KeyboardInterrupt()])
def test_error_in_the_launcher_is_failure(
    launcher: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> int:
        raise error

    monkeypatch.setattr(launcher, "run_journeys", run)
    assert launcher.main([]) != 0
    assert type(error).__name__ in capsys.readouterr().err


def test_options_after_dashes_reach_pytest(launcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(launcher, "run_journeys", lambda options=(): given.append(list(options)) or 0)
    assert launcher.main(["--python-script", "x.py", "--", "-k", "cancel"]) == 0
    assert launcher.main(["--python-script", "x.py"]) == 0
    assert given == [["-k", "cancel"], []]


@pytest.mark.parametrize("code", [0, 1])
def test_application_is_ended_by_slicer_with_the_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    codes: list[int] = []
    slicer = types.ModuleType("slicer")
    slicer.app = object()  # type: ignore[attr-defined]
    slicer.util = types.SimpleNamespace(exit=codes.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer", slicer)

    def main(arguments: list[str], plugins: list[Any]) -> int:
        plugins[0].found = plugins[0].ended = plugins[0].outcomes["passed"] = 1
        return code

    monkeypatch.setattr(pytest, "main", main)
    monkeypatch.setattr(sys, "argv", [str(LAUNCHER)])
    runpy.run_path(str(LAUNCHER), run_name="__main__")
    assert codes == [code]


def test_outside_the_application_all_journeys_are_skipped_and_that_is_failure(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, str(LAUNCHER)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "none passed, all were skipped" in done.stdout
    assert "runs inside the Slicer application" in done.stdout


@pytest.mark.slicer
@pytest.mark.parametrize(
    "choice",
    [
        "click_on_segment or cancel",
        # What the stand-in lacks: the module's card and the Sample Data module.
        pytest.param("not what_it_is and not samples", marks=pytest.mark.slow),
    ],
)
def test_journeys_pass_on_the_stand_in(tmp_path: Path, choice: str) -> None:
    pytest.importorskip("PySide6", reason="needs PySide6: pip install 'covidseg[dev]'")
    pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("standin_journeys.py")), "-k", choice],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_test_for_ctest_fails_with_the_journeys(launcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (0, 1):
        monkeypatch.setattr(launcher, "run_journeys", lambda code=code: code)
        result = unittest.TestResult()
        unittest.TestLoader().loadTestsFromModule(launcher).run(result)
        assert result.testsRun == 1
        assert result.wasSuccessful() == (code == 0)


def test_folder_does_not_pass_for_slicer() -> None:
    # With an __init__.py, `import slicer` in the tests would find this folder instead of Slicer.
    assert not (SLICER_TESTS / "__init__.py").exists()
