"""The extension configured as Slicer's build does it, over a stand-in for Slicer's CMake files (stub/)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).resolve().parent / "stub"
INSTALLED = Path("lib/Slicer/qt-scripted-modules")
LISTED = ["CovidSeg.py", "CovidSegLib/pipeline.py", "Scripts/covidseg_batch.py", "Resources/requirements.txt"]


@pytest.fixture(scope="session")
def cmake() -> Path:
    """Path of CMake 3.28 or newer, from PyPI."""
    package = pytest.importorskip("cmake", reason="needs CMake from PyPI: pip install 'cmake>=3.28'")
    return Path(package.CMAKE_BIN_DIR) / "cmake"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


def configure(cmake: Path, source: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Configure a source tree. Nothing is compiled: a program that does nothing stands in for the compiler."""
    words = {"_COMPILER": shutil.which("true"), "_COMPILER_FORCED": 1, "_COMPILER_ID_RUN": 1}
    compilers = [f"-DCMAKE_{language}{end}={value}" for language in ("C", "CXX") for end, value in words.items()]
    return run(cmake, "-S", source, "-B", build, f"-DSlicer_DIR={STUB}", *compilers, *options)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy of the extension's CMake files; all other files are there, but empty."""
    copy = tmp_path / "tree"

    def copied(source: str, target: str) -> None:
        shutil.copy(source, target) if Path(source).name == "CMakeLists.txt" else Path(target).touch()

    for folder in ("CovidSeg", "Testing/slicer"):
        shutil.copytree(
            ROOT / folder, copy / folder, copy_function=copied, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    return copy


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file.name} no longer has {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def build(cmake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build folder of the repository itself, configured."""
    folder = tmp_path_factory.mktemp("extension")
    done = configure(cmake, ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_repository_configures_and_is_ready_to_build(build: Path) -> None:
    assert (build / "Makefile").is_file() or (build / "build.ninja").is_file()


def test_module_that_slicer_installs_is_whole(cmake: Path, build: Path, tmp_path: Path) -> None:
    done = run(cmake, "--install", build, "--prefix", tmp_path)
    assert done.returncode == 0, done.stderr
    code = (
        "import CovidSegLib, CovidSegLib.commands.segment, CovidSegLib.results.terminology; "
        "from CovidSegLib.bundle import load_bundle; print(load_bundle().sha256, CovidSegLib.__file__)"
    )
    # Another folder than the repository, and no path but the installed module's.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / INSTALLED)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    sha256, library = done.stdout.split()
    assert len(sha256) == 64
    assert Path(library).is_relative_to(tmp_path)


def test_tests_for_the_application_are_registered(cmake: Path, build: Path) -> None:
    done = run(cmake.with_name("ctest"), "--test-dir", build, "--show-only=json-v1")
    names = {test["name"] for test in json.loads(done.stdout)["tests"]}
    journeys = {"py_run_in_slicer", "py_nomainwindow_run_in_slicer"}
    assert names == {"py_CovidSeg", "py_nomainwindow_qSlicerCovidSegModuleGenericTest"} | journeys


def test_configuration_without_tests_registers_none(cmake: Path, tree: Path, tmp_path: Path) -> None:
    assert configure(cmake, tree, tmp_path / "build", "-DBUILD_TESTING=OFF").returncode == 0
    done = run(cmake.with_name("ctest"), "--test-dir", tmp_path / "build", "--show-only=json-v1")
    assert '"name" : "py_' not in done.stdout


def test_copied_tree_configures(cmake: Path, tree: Path, tmp_path: Path) -> None:
    # Without this, the failures below might have another cause than the missing file.
    done = configure(cmake, tree, tmp_path / "build")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("listed", LISTED)
def test_configuration_fails_if_a_listed_file_is_missing(cmake: Path, tree: Path, tmp_path: Path, listed: str) -> None:
    (tree / "CovidSeg" / listed).unlink()
    done = configure(cmake, tree, tmp_path / "build")
    assert done.returncode != 0
    assert listed in done.stderr


def test_configuration_fails_if_the_script_of_a_test_is_missing(cmake: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "Testing/slicer/run_in_slicer.py").unlink()
    done = configure(cmake, tree, tmp_path / "build")
    assert done.returncode != 0
    assert "run_in_slicer.py" in done.stderr


def test_script_may_be_listed_without_its_extension(cmake: Path, tree: Path, tmp_path: Path) -> None:
    edit(tree / "CovidSeg/CMakeLists.txt", "CovidSegLib/pipeline.py", "CovidSegLib/pipeline")
    assert configure(cmake, tree, tmp_path / "build").returncode == 0


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("CovidSeg/CMakeLists.txt", "  RESOURCES ${", "  RESSOURCES ${"),
        ("CovidSeg/CMakeLists.txt", "  NAME ${MODULE_NAME}", ""),
        ("CMakeLists.txt", "EXTENSION_ICONURL", "EXTENSION_ICON_URL"),
    ],
)
def test_configuration_fails_on_a_wrong_word(
    cmake: Path, tree: Path, tmp_path: Path, file: str, old: str, new: str
) -> None:
    edit(tree / file, old, new)
    assert configure(cmake, tree, tmp_path / "build").returncode != 0


def test_extension_depends_on_what_the_index_entry_says(build: Path) -> None:
    entry = json.loads((ROOT / "CovidSegExtension/CovidSegExtension.json").read_text(encoding="utf-8"))
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f'set(EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}")' in text
    assert (build / "CMakeCache.txt").read_text(encoding="utf-8").count("CovidSegExtension_SOURCE_DIR")


@pytest.fixture(scope="module")
def index_schema() -> Any:
    """Checks an entry against the schema of the Extensions Index."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install jsonschema")
    text = (Path(__file__).parent / "index_entry_schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft7Validator(json.loads(text))


def entry() -> dict[str, Any]:
    return dict(json.loads((ROOT / "CovidSegExtension/CovidSegExtension.json").read_text(encoding="utf-8")))


def test_index_entry_follows_the_schema_it_names(index_schema: Any) -> None:
    assert "schema-v1.0.2.json" in entry()["$schema"]
    assert [error.message for error in index_schema.iter_errors(entry())] == []


@pytest.mark.parametrize(
    "change", [{"homepage": "x"}, {"tier": 6}, {"tier": "1"}, {"build_dependencies": "PyTorch"}, {"scm_type": "svn"}]
)
def test_schema_refuses_what_the_index_refuses(index_schema: Any, change: dict[str, Any]) -> None:
    assert not index_schema.is_valid({**entry(), **change})


@pytest.mark.parametrize("key", ["$schema", "category", "scm_url"])
def test_schema_asks_for_the_required_keys(index_schema: Any, key: str) -> None:
    assert not index_schema.is_valid({name: value for name, value in entry().items() if name != key})
