"""summary.csv and run.json, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.cases.one_case import Outcome, Status
from CovidSegLib.cases.summary import write_run_record, write_summary

HEADER = (
    "case,status,poi_percent,poi_left_percent,poi_right_percent,severity,lung_ml,infection_ml,seconds,device,message"
)


def _report() -> dict[str, Any]:
    """Return what the summary takes of a report, every figure another one."""
    return {
        "case": "not taken from here",
        "poi_percent": 12.5,
        "regions": {
            "lungs": {"poi_percent": 99.0, "volume_ml": 4000.25, "infection_ml": 500.5},
            "left_lung": {"poi_percent": 10.0, "volume_ml": 99.0, "infection_ml": 99.0},
            "right_lung": {"poi_percent": 0.0, "volume_ml": 99.0, "infection_ml": 99.0},
        },
        "severity": {"class": "CT-1", "worse_lung_class": "CT-4"},
        "runtime": {"seconds": 7.5, "device": "cuda:1"},
    }


def _lines(out_dir: Path, *outcomes: Outcome) -> list[str]:
    path = write_summary(out_dir, outcomes=outcomes)
    assert path == out_dir / "summary.csv" and list(out_dir.iterdir()) == [path]
    content = path.read_bytes().decode("utf-8")
    assert content.endswith("\n") and "\r" not in content
    return content.splitlines()


def test_summary_has_every_figure_in_its_column_and_keeps_rows_of_cases_that_failed(tmp_path: Path) -> None:
    assert _lines(
        tmp_path,
        Outcome(case="größe 日本", status=Status.DONE, report=_report()),
        Outcome(case="b", status=Status.FAILED, message='cut short, "it" says'),
        Outcome(case="a", status=Status.NOT_RUN),
        Outcome(case="c", status=Status.SKIPPED, message="a warning", report=_report()),
    ) == [
        HEADER,
        "größe 日本,done,12.5,10.0,0.0,CT-1,4000.25,500.5,7.5,cuda:1,",
        'b,failed,,,,,,,,,"cut short, ""it"" says"',
        "a,not run,,,,,,,,,",
        "c,skipped,12.5,10.0,0.0,CT-1,4000.25,500.5,7.5,cuda:1,a warning",
    ]


def test_figures_that_a_report_does_not_have_are_empty_cells(tmp_path: Path) -> None:
    report = _report()
    report["regions"]["left_lung"]["poi_percent"] = None
    report["regions"].update(right_lung=None, lungs={})
    report["severity"] = "none"
    del report["runtime"]
    assert _lines(tmp_path, Outcome(case="a", status=Status.DONE, report=report))[1] == "a,done,12.5,,,,,,,,"


def test_run_without_a_case_has_a_header(tmp_path: Path) -> None:
    assert _lines(tmp_path) == [HEADER]


def test_run_record_says_with_what_and_how_it_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.cases.summary.versions", lambda: {"python": "3"})
    path = write_run_record(
        tmp_path,
        model={"name": "m"},
        device="cpu",
        options={"bundle": "größe"},
        times={"started": "2020-01-02T03:04:05+00:00", "seconds": 1.5},
        inputs={"a": "/data/größe.nii"},
    )
    assert path == tmp_path / "run.json" and list(tmp_path.iterdir()) == [path]
    content = path.read_bytes().decode("utf-8")
    assert content.startswith('{\n  "versions": {\n    "python": "3"\n') and content.endswith("\n}\n")
    assert '"größe"' in content and "\r" not in content
    assert list(json.loads(content).items()) == [
        ("versions", {"python": "3"}),
        ("model", {"name": "m"}),
        ("device", "cpu"),
        ("options", {"bundle": "größe"}),
        ("started", "2020-01-02T03:04:05+00:00"),
        ("seconds", 1.5),
        ("cases", {"a": "/data/größe.nii"}),
    ]
