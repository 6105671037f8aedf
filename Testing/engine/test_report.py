"""The report's keys, rounding, and how undefined numbers are written."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib import DISCLAIMER
from CovidSegLib.anatomy.field_of_view import CROPPED, NOT_SCANNED_WHOLE
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.quantify import Quantities, quantify_labelmap
from CovidSegLib.report import build_report, renewed_warnings, write_report_csv, write_report_json
from CovidSegLib.runtime import Clock, runtime_record

GEOMETRY = Geometry((20, 4, 3), (0.7421875, 0.7421875, 2.0), (-123.456789, 7.0, 1e-7))
KEYS = [
    "case",
    "poi_percent",
    "regions",
    "composition",
    "severity",
    "geometry",
    "input",
    "model",
    "runtime",
    "warnings",
    "disclaimer",
]
OPEN_SECTIONS = ("stages", "versions", "options")


def make_quantities(*, left: bool = True) -> Quantities:
    labelmap = np.zeros(GEOMETRY.shape_kji, dtype=np.uint8)
    labelmap[:, :, 1:8] = Label.RIGHT_LUNG
    labelmap[:, :1, 1:3] = Label.INFECTION
    if left:
        labelmap[:, :, 11:18] = Label.LEFT_LUNG
    hu = np.random.default_rng(1).integers(-1000, 0, labelmap.shape).astype(np.int16)
    return quantify_labelmap(hu, geometry=GEOMETRY, labelmap_kji=labelmap)


def make_report(*, left: bool = True, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "case": "Fälle, “eins”",
        "quantities": make_quantities(left=left),
        "geometry": GEOMETRY,
        "fingerprint": "sha256:00ff",
        "model": {"name": "unet16", "version": "1.0", "sha256": "abc"},
        "runtime": {
            "device": "cpu",
            "mode": "fast",
            "seconds": 12.3456789,
            "stages": {"read": 1.23456, "network": np.float32(9.5)},
            "peak_memory_mb": 812.3456,
            "versions": {"numpy": "2.4"},
            "options": {"mode": "fast", "cut_hu": 0.123456789},
        },
        "warnings": ("Few slices.", "No contrast."),
    }
    return build_report(**(arguments | changes))


def keys_of(value: Any) -> list[str]:
    """All keys, those of sections included, but not the names of stages and packages."""
    if not isinstance(value, dict):
        return []
    return [
        key for name, item in value.items() for key in (name, *(keys_of(item) if name not in OPEN_SECTIONS else ()))
    ]


def rows_of(path: Path) -> dict[str, tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["key"]: (row["value"], row["unit"]) for row in csv.DictReader(file)}


def test_report_has_the_contracts_keys_in_order():
    report = make_report()
    assert list(report) == KEYS
    assert report["input"] == {"fingerprint": "sha256:00ff"}
    assert report["model"] == {"name": "unet16", "version": "1.0", "sha256": "abc"}
    assert list(report["geometry"]) == ["size_ijk", "spacing_ijk_mm", "origin_lps_mm", "direction_lps"]
    assert report["disclaimer"] == DISCLAIMER


def test_every_key_of_the_report_is_explained_in_the_method():
    method = (Path(__file__).resolve().parents[2] / "docs" / "METHOD.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", method.partition("## 11. ")[2]))
    runtime = runtime_record(device="cpu", precision="int8", mode="fast", clock=Clock()) | {"options": {}}
    report = make_report(runtime=runtime, input_details={"series": "2: chest"})
    assert [key for key in keys_of(report) if key not in explained] == []


def test_numbers_are_rounded_by_unit_but_geometry_and_options_are_exact():
    report, quantities = make_report(), make_quantities()
    lungs = report["regions"]["lungs"]
    assert lungs["volume_ml"] == round(quantities.lungs.volume_ml, 3)
    assert report["poi_percent"] == round(quantities.lungs.poi_percent, 4)
    assert lungs["hu"]["mean"] == round(quantities.lungs.hu.mean, 2)
    assert report["runtime"]["seconds"] == 12.346
    assert report["runtime"]["stages"] == {"read": 1.235, "network": 9.5}
    assert report["runtime"]["peak_memory_mb"] == 812.3
    assert report["geometry"]["origin_lps_mm"] == [-123.456789, 7.0, 1e-7]
    assert report["runtime"]["options"] == {"mode": "fast", "cut_hu": 0.123456789}


def test_severity_is_that_of_the_unrounded_poi():
    """25.00001 % is class 2, although the report shows 25.0."""
    labelmap = np.full((1, 1000, 4000), Label.LEFT_LUNG, dtype=np.uint8)
    labelmap.reshape(-1)[:1_000_001] = Label.INFECTION
    grid = Geometry((4000, 1000, 1), (1.0, 1.0, 1.0))
    quantities = quantify_labelmap(np.zeros(labelmap.shape, np.int16), geometry=grid, labelmap_kji=labelmap)
    report = make_report(quantities=quantities)
    assert quantities.poi_percent == pytest.approx(25.000025, abs=1e-9)
    assert (report["poi_percent"], report["severity"]["class"]) == (25.0, "CT-2")


def test_json_reads_back_equal_and_is_plain_text(tmp_path):
    report = make_report()
    write_report_json(tmp_path / "report.json", report)
    raw = (tmp_path / "report.json").read_bytes()
    assert raw.endswith(b"}\n") and b"\r" not in raw
    assert "Fälle" in raw.decode("utf-8")
    assert json.loads(raw) == report
    assert list(json.loads(raw)) == KEYS


def test_undefined_is_null_in_json_and_not_available_in_csv(tmp_path):
    report = make_report(left=False)
    assert report["regions"]["left_lung"]["poi_percent"] is None
    write_report_json(tmp_path / "report.json", report)
    left = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["regions"]["left_lung"]
    assert left["poi_percent"] is None and left["hu"]["median"] is None and left["volume_ml"] == 0.0
    write_report_csv(tmp_path / "report.csv", report)
    assert rows_of(tmp_path / "report.csv")["regions.left_lung.poi_percent"] == ("n/a", "%")


def test_nan_becomes_null_and_never_reaches_the_file(tmp_path):
    report = make_report(runtime={"seconds": math.nan, "stages": {"read": np.float64("inf")}})
    assert report["runtime"] == {"seconds": None, "stages": {"read": None}}
    write_report_json(tmp_path / "report.json", report | {"poi_percent": math.nan})
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["poi_percent"] is None
    write_report_csv(tmp_path / "report.csv", report | {"poi_percent": math.nan})
    assert rows_of(tmp_path / "report.csv")["poi_percent"] == ("n/a", "%")


def test_csv_has_a_row_per_number_with_its_unit(tmp_path):
    report = make_report()
    write_report_csv(tmp_path / "report.csv", report)
    raw = (tmp_path / "report.csv").read_bytes()
    assert raw.startswith(b"key,value,unit\n") and raw.endswith(b"\n") and b"\r" not in raw
    rows = rows_of(tmp_path / "report.csv")
    assert rows["case"] == ("Fälle, “eins”", "")
    assert rows["poi_percent"] == (str(report["poi_percent"]), "%")
    assert rows["regions.lungs.volume_ml"] == (str(report["regions"]["lungs"]["volume_ml"]), "ml")
    assert rows["regions.right_lung.hu.p90"] == (str(report["regions"]["right_lung"]["hu"]["p90"]), "HU")
    assert rows["regions.right_lung.mass_g"][1] == "g"
    assert rows["composition.consolidation_from_hu"] == ("-300.0", "HU")
    assert rows["geometry.spacing_ijk_mm"] == ("0.7421875 0.7421875 2.0", "mm")
    assert rows["runtime.stages.network"] == ("9.5", "s")
    assert rows["runtime.peak_memory_mb"] == ("812.3", "MB")
    assert rows["warnings.2"] == ("No contrast.", "")


def test_equal_reports_give_equal_bytes(tmp_path):
    for write, name in ((write_report_json, "json"), (write_report_csv, "csv")):
        write(tmp_path / f"a.{name}", make_report())
        write(tmp_path / f"b.{name}", make_report())
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()


def test_input_details_and_numpy_values_are_accepted():
    report = make_report(input_details={"series": "2: chest", "count": np.int64(3), "sorted": np.bool_(True)})
    assert report["input"] == {"fingerprint": "sha256:00ff", "series": "2: chest", "count": 3, "sorted": True}
    assert all(type(value) is int for value in report["geometry"]["size_ijk"])


def test_warnings_of_the_run_stay_and_those_of_its_segments_are_renewed() -> None:
    run = ("Thick slices.", CROPPED, *make_quantities(left=False).warnings())
    earlier = make_report(left=False, warnings=run)
    renewed = renewed_warnings(earlier, quantities=make_quantities(), now=(NOT_SCANNED_WHOLE,), note="Corrected.")
    assert renewed == (NOT_SCANNED_WHOLE, "Thick slices.", *make_quantities().warnings(), "Corrected.")
    again = make_report(warnings=renewed)
    missing = make_quantities(left=False)
    assert renewed_warnings(again, quantities=missing, note="Corrected.") == (
        "Thick slices.",
        *missing.warnings(),
        "Corrected.",
    )


def test_warnings_without_an_earlier_report_are_those_of_the_figures() -> None:
    missing = make_quantities(left=False)
    assert renewed_warnings({}, quantities=missing) == missing.warnings()
