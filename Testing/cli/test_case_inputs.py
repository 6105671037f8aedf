"""A case keeps its name, and so its folder, whatever else is segmented into the same output folder later on."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.cases.batch import run_batch
from CovidSegLib.cases.discovery import discover_cases
from CovidSegLib.cases.one_case import RunOptions
from CovidSegLib.cases.recorded_inputs import name_cases, updated_record
from CovidSegLib.commands.console import ConsoleReporter
from fake_engine import FAKE_ENGINE, write_ct
from helpers_cli import report_of, segment, summary
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("fake_engine")


def _patient(archive: Path, number: int) -> Path:
    """Write the CT of a patient, infected in as many slices as the number says; all have the same file name."""
    return write_ct(archive / f"patient{number:02d}" / "ct.nii.gz", infected_slices=number)


def _pretend_run(paths: Sequence[Path], *, out: Path) -> dict[Path, str]:
    """Name the inputs as a run does, and leave what it would leave of that; return the names."""
    names = name_cases(paths, out_dir=out)
    for name in names:
        (out / name).mkdir(exist_ok=True)
    record = {"cases": updated_record(out, inputs=dict(zip(names, paths, strict=True)))}
    (out / "run.json").write_text(json.dumps(record))
    assert len(set(names)) == len(paths)
    return dict(zip(paths, names, strict=True))


def _record(out: Path) -> Any:
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


def _names(inputs: Iterable[Path], *, out: Path) -> list[str]:
    return [case.name for case in discover_cases(list(inputs), out_dir=out).cases]


def test_growing_archive_keeps_every_patient_in_their_folder(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    cts = {number: _patient(archive, number) for number in (2, 3)}
    assert segment(archive, "-o", out, "--no-preview") == 0
    cts[1] = _patient(archive, 1)
    assert segment(archive, "-o", out, "--no-preview") == 0
    assert [(row["case"], row["status"]) for row in summary(out)] == [
        ("ct-3", "done"),
        ("ct", "skipped"),
        ("ct-2", "skipped"),
    ]
    poi = {name: report_of(out / name)["poi_percent"] for name in ("ct", "ct-2", "ct-3")}
    assert poi == pytest.approx({"ct": 20.0, "ct-2": 30.0, "ct-3": 10.0})
    assert list(_record(out)["cases"].items()) == [
        ("ct", str(cts[2].resolve())),
        ("ct-2", str(cts[3].resolve())),
        ("ct-3", str(cts[1].resolve())),
    ]


def test_archive_that_was_moved_is_named_as_the_first_time_and_skipped(tmp_path: Path) -> None:
    for number in (2, 3):
        _patient(tmp_path / "archive", number)
    assert segment(tmp_path / "archive", "-o", tmp_path / "out", "--no-preview") == 0
    (tmp_path / "archive").rename(tmp_path / "moved")
    assert segment(tmp_path / "moved", "-o", tmp_path / "out", "--no-preview") == 0
    assert [(row["case"], row["status"]) for row in summary(tmp_path / "out")] == [
        ("ct", "skipped"),
        ("ct-2", "skipped"),
    ]


@given(runs=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=8))
def test_input_keeps_its_name_whichever_are_given_with_it(runs: list[set[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out, named = Path(folder) / "out", dict[Path, str]()
        out.mkdir()
        cts = [Path(folder) / f"patient{number}" / "ct.nii.gz" for number in range(6)]
        for ct in cts:
            ct.parent.mkdir()
            ct.touch()
        for run in runs:
            found = _pretend_run([cts[number] for number in sorted(run)], out=out)
            assert {**named, **found} == {**found, **named}
            named.update(found)
        assert len(set(named.values())) == len(named)


def test_input_is_known_by_its_file_whichever_way_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    first, second = _patient(archive, 1), _patient(archive, 2)
    assert segment(second, "-o", out, "--no-preview") == 0
    monkeypatch.chdir(archive)
    ways = [Path("patient01"), Path("patient01/../patient02/ct.nii.gz")]
    assert _names(ways, out=out) == _names([first, second], out=out) == ["ct-2", "ct"]


def test_same_file_name_in_separate_runs_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2, 1):
        assert segment(_patient(tmp_path, number), "-o", out, "--no-preview") == 0
    assert [(row["case"], row["status"]) for row in summary(out)] == [("ct", "skipped")]
    assert {name: report_of(out / name)["poi_percent"] for name in ("ct", "ct-2")} == pytest.approx(
        {"ct": 10.0, "ct-2": 20.0}
    )
    assert list(_record(out)["cases"]) == ["ct", "ct-2"]


def test_deleted_folder_frees_its_name_for_others_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = _patient(tmp_path, 1), _patient(tmp_path, 2)
    assert segment(second, "-o", out, "--no-preview") == 0
    shutil.rmtree(out / "ct")
    assert _names([first, second], out=out) == ["ct-2", "ct"]
    assert segment(first, "-o", out, "--no-preview") == 0
    assert _record(out)["cases"] == {"ct": str(first.resolve())}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[" * 100_000,
        "[]",
        '{"cases": 3}',
        '{"cases": {"ct": 3, "ct-2": null}}',
        '{"cases": {"../ct": "FIRST", "a/b": "FIRST", "": "FIRST", ".": "FIRST", "summary.csv": "FIRST"}}',
        '{"cases": {"ct\\u0000": "FIRST", "ct-9\\ud800": "FIRST", "ct": "\\ud800"}}',
    ],
)
def test_record_that_is_damaged_or_not_ours_is_ignored(tmp_path: Path, content: str | None) -> None:
    out = tmp_path / "out"
    first, second = _patient(tmp_path, 1), _patient(tmp_path, 2)
    (out / "ct").mkdir(parents=True)
    if content is not None:
        (out / "run.json").write_text(content.replace("FIRST", first.as_posix()))
    assert _names([first, second], out=out) == ["ct", "ct-2"]
    assert segment(first, second, "-o", out, "--no-preview") == 0
    assert list(_record(out)["cases"]) == ["ct", "ct-2"]


def test_names_of_full_length_are_known_again_and_those_that_differ_in_case_only_stay_apart(tmp_path: Path) -> None:
    paths = [Path(f"/data/{folder}/{'x' * 250}.nii") for folder in "ab"] + [Path("/data/CT.nii"), Path("/data/ct.mha")]
    first = _pretend_run(paths, out=tmp_path)
    assert _pretend_run(paths[::-1], out=tmp_path) == first


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_path_that_is_no_text_is_recorded_all_the_same(tmp_path: Path) -> None:
    odd = [Path(os.fsdecode(f"/data/{folder}/".encode() + b"caf\xe9.nii")) for folder in "ab"]
    first = _pretend_run(odd, out=tmp_path)
    assert _pretend_run(odd[::-1], out=tmp_path) == first
    assert _record(tmp_path)["cases"]["caf_"] == "/data/a/caf\\udce9.nii"


def test_run_that_is_killed_has_recorded_its_cases(tmp_path: Path) -> None:
    class Killed(BaseException):
        """Nothing catches it, as nothing does a kill."""

    def killed(_path: Path, **_options: Any) -> Any:
        raise Killed

    found = discover_cases([_patient(tmp_path, 1), _patient(tmp_path, 2)], out_dir=tmp_path / "out")
    options = RunOptions(tmp_path / "out", preview=False)
    reporter = ConsoleReporter(out_dir=options.out_dir, details=False)
    with pytest.raises(Killed):
        run_batch(found.cases, options=options, reporter=reporter, engine=replace(FAKE_ENGINE, read=killed))
    reporter.close()
    record = _record(tmp_path / "out")
    assert list(record["cases"]) == ["ct", "ct-2"] and record["seconds"] is None
