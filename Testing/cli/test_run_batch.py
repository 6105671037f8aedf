"""A run from Python: what its reporter is told, what it returns, and what it leaves when stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.cases.batch import BatchResult, make_out_dir, run_batch
from CovidSegLib.cases.discovery import Case
from CovidSegLib.cases.one_case import CaseRunner, Engine, Outcome, RunOptions, Status
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import Cancelled, InputError
from CovidSegLib.progress import Progress
from fake_engine import FAKE_ENGINE, FakeBundle, OtherBundle, fake_segment, write_ct
from helpers_cli import summary

BUNDLE: Any = FakeBundle()


@dataclass
class Told:
    """A reporter that remembers."""

    lines: list[str] = field(default_factory=list)

    def run_started(self, *, total: int, device: str, model: str) -> None:
        self.lines.append(f"run of {total} on {device} with {model}")

    def case_started(self, case: Case) -> None:
        self.lines.append(f"{case.name} started")

    def case_progress(self, case: Case, progress: Progress) -> None:
        self.lines.append(f"{case.name}: {progress.stage} {progress.done}/{progress.total}")

    def note(self, text: str) -> None:
        self.lines.append(f"note: {text}")

    def case_finished(self, case: Case, outcome: Outcome) -> None:
        self.lines.append(f"{case.name} {outcome.status}")


def _cases(folder: Path, *names: str) -> list[Case]:
    return [Case(name, write_ct(folder / f"{name}.nii.gz")) for name in names]


def _options(tmp_path: Path, **changes: Any) -> RunOptions:
    return RunOptions(tmp_path / "out", **{"preview": False, **changes})


def _runner(tmp_path: Path, *, engine: Engine = FAKE_ENGINE, **changes: Any) -> CaseRunner:
    (tmp_path / "out").mkdir(exist_ok=True)
    return CaseRunner(_options(tmp_path, **changes), engine)


def _segmenting(called: Callable[[str], None]) -> Engine:
    """Return the engine with something that happens before each case is segmented."""

    def segment(ct: Any, **options: Any) -> Any:
        called(ct.name)
        return fake_segment(ct, **options)

    return replace(FAKE_ENGINE, segment=segment)


def _counted(result: BatchResult) -> tuple[list[tuple[str, str]], int, bool]:
    return [(outcome.case, outcome.status) for outcome in result.outcomes], result.failed, result.stopped


def test_defaults_are_those_of_the_command() -> None:
    assert vars(RunOptions(Path("out"))) == {
        "out_dir": Path("out"),
        "mode": "accurate",
        "device": "auto",
        "bundle": None,
        "overwrite": False,
        "workers": 1,
        "preview": True,
        "series": None,
        "uncertainty": False,
    }
    recorded = {"mode": "accurate", "device": "auto"}
    assert RunOptions(Path("out"), workers=3).recorded == recorded
    assert RunOptions(Path("out"), series="2").recorded == {**recorded, "series": "2"}


def test_reporter_is_told_what_happens_in_its_order(tmp_path: Path) -> None:
    told, cases = Told(), _cases(tmp_path, "a", "nolungs")
    result = run_batch(cases, options=_options(tmp_path, workers=1), reporter=told, engine=FAKE_ENGINE)
    assert told.lines == [
        "run of 2 on cpu with fake 0.0",
        "a started",
        "a: read 0/1",
        *(f"a: network {step}/3" for step in range(3)),
        "a: write 0/1",
        "a done",
        "nolungs started",
        "nolungs: read 0/1",
        "nolungs failed",
    ]
    assert _counted(result) == ([("a", "done"), ("nolungs", "failed")], 1, False)
    assert result.outcomes[1].message == "nolungs: no lungs found: is this a chest CT in HU?"


def test_case_alone_is_run_in_this_process_whatever_the_workers(tmp_path: Path) -> None:
    told = Told()
    run_batch(_cases(tmp_path, "a"), options=_options(tmp_path, workers=4), reporter=told, engine=FAKE_ENGINE)
    assert "a started" in told.lines and "a: network 1/3" in told.lines  # workers tell neither


def test_reporter_is_told_why_a_case_is_computed_again_and_what_was_put_back(tmp_path: Path) -> None:
    cases = _cases(tmp_path, "a", "b")
    run_batch(cases, options=_options(tmp_path), reporter=Told(), engine=FAKE_ENGINE)
    (tmp_path / "out" / "b").rename(tmp_path / "out" / ".b.old-0123456789ab")
    told = Told()
    result = run_batch(cases, options=_options(tmp_path, mode="fast"), reporter=told, engine=FAKE_ENGINE)
    assert told.lines[0] == "note: b: an interrupted replacement was undone"
    for case in ("a", "b"):
        assert f"note: {case}: computing again: option mode has changed from accurate to fast" in told.lines
    assert _counted(result) == ([("a", "done"), ("b", "done")], 0, False)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled])
def test_stopped_run_keeps_what_is_done_and_says_what_was_not_run(tmp_path: Path, stop: type[BaseException]) -> None:
    def stop_at_b(case: str) -> None:
        if case == "b":
            raise stop

    told, cases = Told(), _cases(tmp_path, "a", "b", "c")
    result = run_batch(cases, options=_options(tmp_path), reporter=told, engine=_segmenting(stop_at_b))
    assert _counted(result) == ([("a", "done"), ("b", "not run"), ("c", "not run")], 0, True)
    assert "c started" not in told.lines and "b not run" not in told.lines
    assert [row["status"] for row in summary(tmp_path / "out")] == ["done", "not run", "not run"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "summary.csv", "run.json"}


def test_run_record_holds_the_options_and_the_times(tmp_path: Path) -> None:
    options = _options(tmp_path, mode="fast", bundle=Path("b"), overwrite=True, workers=3, series="2", uncertainty=True)
    before = datetime.now(UTC).replace(microsecond=0)
    run_batch([], options=options, reporter=Told(), engine=FAKE_ENGINE)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["options"] == {
        "mode": "fast",
        "device": "auto",
        "bundle": "b",
        "overwrite": True,
        "workers": 3,
        "preview": False,
        "series": "2",
        "uncertainty": True,
    }
    assert record["model"] == OtherBundle().to_dict() and record["device"] == "cpu"
    assert before <= datetime.fromisoformat(record["started"]) <= datetime.now(UTC)
    assert record["started"].endswith("+00:00") and "." not in record["started"]
    assert 0.0 <= record["seconds"] < 60.0 and round(record["seconds"], 2) == record["seconds"]
    run_batch([], options=replace(options, bundle=None), reporter=Told(), engine=FAKE_ENGINE)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["bundle"] is None


def test_network_is_given_what_the_user_asked_for(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    def read(path: Path, **options: Any) -> Any:
        given.append({"read": path.name, **options})
        return FAKE_ENGINE.read(path)

    def segment(ct: Any, **options: Any) -> Any:
        given.append({"name": ct.name, **options, "progress": None})
        return fake_segment(ct, **options)

    engine = replace(FAKE_ENGINE, read=read, segment=segment)
    case = Case("a name", write_ct(tmp_path / "ct.nii.gz"))
    both = {"name": "a name", "bundle": BUNDLE, "progress": None, "cancelled": None}
    _runner(tmp_path, engine=engine).run(case, bundle=BUNDLE)
    changes: dict[str, Any] = {"mode": "fast", "device": "cpu", "series": "2", "uncertainty": True}
    _runner(tmp_path, engine=engine, **changes).run(case, bundle=BUNDLE)
    assert given == [
        {"read": "ct.nii.gz"},
        {**both, "mode": "accurate", "device": "auto", "uncertainty": False},
        {"read": "ct.nii.gz", "series": "2"},
        {**both, "mode": "fast", "device": "cpu", "uncertainty": True},
    ]


def test_outcome_of_a_case_tells_its_report_and_its_warnings(tmp_path: Path) -> None:
    def read(path: Path) -> Any:
        return replace(FAKE_ENGINE.read(path), warnings=("thick slices", "cut off"))

    (case,) = _cases(tmp_path, "a")
    runner = _runner(tmp_path, engine=replace(FAKE_ENGINE, read=read))
    done, skipped = (runner.run(case, bundle=BUNDLE) for _ in range(2))
    assert (done.status, skipped.status) == (Status.DONE, Status.SKIPPED)
    assert done.message == skipped.message == "thick slices; cut off"
    report = json.loads((tmp_path / "out" / "a" / "report.json").read_text())
    assert skipped.report == report and done.report is not None and done.report["poi_percent"] == report["poi_percent"]
    assert (done.details, done.unexpected) == ("", False)


@pytest.mark.parametrize(("name", "unexpected"), [("bug", True), ("nolungs", False), ("memory", False)])
def test_outcome_of_a_failure_has_its_traceback_and_whether_it_is_a_fault(
    tmp_path: Path, name: str, *, unexpected: bool
) -> None:
    (case,) = _cases(tmp_path, name)
    outcome = _runner(tmp_path).run(case, bundle=BUNDLE)
    assert (outcome.case, outcome.status, outcome.unexpected) == (name, Status.FAILED, unexpected)
    assert outcome.details.startswith("Traceback (most recent call last)") and outcome.report is None
    assert "earlier result" not in outcome.message


def test_complete_case_is_not_even_read_and_one_in_the_way_neither(tmp_path: Path) -> None:
    (case,) = _cases(tmp_path, "a")
    notes: list[str] = []
    assert _runner(tmp_path).run(case, bundle=BUNDLE).status is Status.DONE
    blind = replace(FAKE_ENGINE, read=lambda path: pytest.fail("read"))
    assert _runner(tmp_path, engine=blind).run(case, bundle=BUNDLE, note=notes.append).status is Status.SKIPPED
    assert notes == []
    (tmp_path / "out" / "a" / "ct.nrrd").touch()
    outcome = _runner(tmp_path, engine=blind, overwrite=True).run(case, bundle=BUNDLE, note=notes.append)
    assert outcome.status is Status.FAILED and "holds other files ('ct.nrrd')" in outcome.message
    assert outcome.message.endswith("(the case's folder still holds an earlier result)") and notes == []


def test_bundle_that_cannot_be_loaded_leaves_no_folder(tmp_path: Path) -> None:
    def refuse(_path: Path | None) -> Any:
        raise InputError("no such bundle")

    with pytest.raises(InputError, match="no such bundle"):
        run_batch([], options=_options(tmp_path), reporter=Told(), engine=replace(FAKE_ENGINE, load_bundle=refuse))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_another_run_writes_to_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out" / ".a.partial-0123456789ab").mkdir(parents=True)  # of the other run
    told = Told()
    with run_lock(tmp_path / "out"), pytest.raises(InputError, match="another CovidSeg run is writing"):
        run_batch([], options=_options(tmp_path), reporter=told, engine=FAKE_ENGINE)
    assert told.lines == [] and [path.name for path in (tmp_path / "out").iterdir()] == [".a.partial-0123456789ab"]


def test_output_folder_is_made_with_those_above_it_and_left_empty(tmp_path: Path) -> None:
    for _ in range(2):
        make_out_dir(tmp_path / "far" / "down")
        assert list((tmp_path / "far" / "down").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_output_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the output path '.*\\udce9' has letters in no known encoding"):
        make_out_dir(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    assert list(tmp_path.iterdir()) == []
