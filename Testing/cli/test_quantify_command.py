from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.cli import main
from CovidSegLib.commands import quantify as quantify_command
from CovidSegLib.geometry import Geometry
from CovidSegLib.runtime import Clock, runtime_record, versions
from fake_engine import GEOMETRY, write_ct
from helpers_cli import report_of, segment, summary, tree_without_times
from helpers_phantom import SPACING_IJK_MM, small_phantom

pytestmark = pytest.mark.usefixtures("fake_engine")


def _quantify(*arguments: str | Path) -> int:
    return main(["quantify", *map(str, arguments)])


def _corrected(path: Path, *, infected_slices: int) -> Path:
    """Write a labelmap of the tiny CT's lungs with another number of infected slices."""
    from CovidSegLib.segmentation_file import write_labelmap_nifti

    labels = np.zeros(GEOMETRY.shape_kji, dtype=np.uint8)
    labels[1:11, 4:16, 3:10] = 2
    labels[1:11, 4:16, 14:21] = 1
    labels[1 : 1 + infected_slices][labels[1 : 1 + infected_slices] > 0] = 3
    write_labelmap_nifti(path, labelmap_kji=labels, geometry=GEOMETRY)
    return path


@pytest.mark.parametrize("name", ["segmentation.seg.nrrd", "labelmap.nii.gz"])
def test_figures_of_a_result_are_found_again_from_either_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    ct = write_ct(tmp_path / "a.nii.gz", infected_slices=4)
    assert segment(ct, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    assert _quantify(ct, tmp_path / "out" / "a" / name, "-o", tmp_path / "figures") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["lungs", "33.6", "13.4", "40.0", "%"]
    assert printed[2].split() == ["left", "lung", "16.8", "6.7", "40.0", "%"]
    assert "severity CT-2" in "\n".join(printed)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"report.json", "report.csv"}
    figures = json.loads((tmp_path / "figures" / "report.json").read_text())
    found = json.loads((tmp_path / "out" / "a" / "report.json").read_text())
    for key in ("poi_percent", "regions", "composition", "severity", "geometry", "input"):
        assert figures[key] == found[key]
    assert figures["model"]["sha256"] is None


def test_warnings_of_reading_the_ct_are_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import SimpleITK

    ct, labels = tmp_path / "a.mha", _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(write_ct(tmp_path / "a.nii.gz"))), str(ct))
    ct.write_bytes(b"".join(line for line in ct.read_bytes().splitlines(True) if not line.startswith(b"Transform")))
    assert _quantify(ct, labels, "-o", tmp_path / "out") == 0
    assert "warning: The file states no orientation" in capsys.readouterr().out
    assert any("states no orientation" in warning for warning in report_of(tmp_path / "out")["warnings"])


def test_nothing_is_written_without_an_output(tmp_path: Path) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    assert _quantify(ct, labels) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "l.nii.gz"}


def test_figures_of_a_correction_in_the_case_folder_reach_the_next_summary(tmp_path: Path) -> None:
    ct, out = write_ct(tmp_path / "a.nii.gz", infected_slices=4), tmp_path / "out"
    assert segment(ct, "-o", out) == 0
    corrected = _corrected(out / "a" / "labelmap.nii.gz", infected_slices=6)
    assert _quantify(ct, corrected, "-o", out / "a") == 0
    assert segment(ct, "-o", out) == 0
    (row,) = summary(out)
    assert row["status"] == "skipped"
    assert float(row["poi_percent"]) == pytest.approx(60.0)
    assert "covidseg quantify" in row["message"]


def _with_slices_apart(path: Path, *, spacing_mm: float) -> Path:
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    image.SetSpacing((*image.GetSpacing()[:2], spacing_mm))
    SimpleITK.WriteImage(image, str(path))
    return path


def test_warnings_of_the_run_stay_and_those_of_its_figures_go(tmp_path: Path) -> None:
    ct = _with_slices_apart(write_ct(tmp_path / "a.nii.gz", infected_slices=4), spacing_mm=6.0)
    labels = _with_slices_apart(_corrected(tmp_path / "l.nii.gz", infected_slices=6), spacing_mm=6.0)
    assert segment(ct, "-o", tmp_path / "out") == 0
    folder = tmp_path / "out" / "a"
    report = report_of(folder)
    (thick,) = report["warnings"]
    assert thick.startswith("Thick slices")
    cropped, no_left = "The field of view is cropped.", "No left lung in the segmentation: its figures are n/a."
    report["warnings"] += [no_left, cropped]
    report["regions"]["left_lung"]["poi_percent"] = None
    (folder / "report.json").write_text(json.dumps(report))
    for _ in range(2):  # again over its own report
        assert _quantify(ct, labels, "-o", folder) == 0
        *warnings, small, corrected = report_of(folder)["warnings"]
        assert warnings == [thick, cropped]
        assert small.startswith("The lungs measure 50 ml, less than an adult's can")
        assert "covidseg quantify" in corrected


def test_missing_lung_that_was_painted_is_no_longer_warned_of(tmp_path: Path) -> None:
    import SimpleITK

    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    both = SimpleITK.ReadImage(str(labels))
    SimpleITK.WriteImage(SimpleITK.ChangeLabel(both, {2: 0}), str(tmp_path / "left.nii.gz"))
    assert _quantify(ct, tmp_path / "left.nii.gz", "-o", tmp_path / "figures") == 0
    assert "No right lung in the segmentation: its figures are n/a." in report_of(tmp_path / "figures")["warnings"]
    assert _quantify(ct, labels, "-o", tmp_path / "figures") == 0
    (small, corrected) = report_of(tmp_path / "figures")["warnings"]
    assert small.startswith("The lungs measure 34 ml") and "covidseg quantify" in corrected


def test_versions_have_the_same_names_as_those_of_a_segmentation(tmp_path: Path) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    assert _quantify(ct, labels, "-o", tmp_path / "figures") == 0
    found = report_of(tmp_path / "figures")["runtime"]["versions"]
    assert found == versions()
    assert {"covidseg", "python", "numpy", "simpleitk", "torch", "monai"} <= set(found)
    assert all(found.values())


def test_runtime_has_the_same_keys_as_that_of_a_segmentation(tmp_path: Path) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    assert _quantify(ct, labels, "-o", tmp_path / "figures") == 0
    assert list(report_of(tmp_path / "figures")["runtime"]) == list(
        runtime_record(device="cpu", precision="float32", mode="fast", clock=Clock())
    )


def test_other_grid_is_refused_with_both_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import SimpleITK

    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    image = SimpleITK.ReadImage(str(labels))
    image.SetOrigin((0.0, 0.0, 0.0))
    SimpleITK.WriteImage(image, str(labels))
    assert _quantify(ct, labels, "-o", tmp_path / "figures") == 1
    assert "does not lie on the CT's voxels: it has size 24 x 20 x 12" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def test_segmentation_saved_on_a_part_of_the_grid_gives_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import SimpleITK

    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=2)
    assert _quantify(ct, labels) == 0
    whole = capsys.readouterr().out
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(labels))[2:22, 3:17, 1:11], str(tmp_path / "part.nrrd"))
    assert _quantify(ct, tmp_path / "part.nrrd") == 0
    assert capsys.readouterr().out == whole


def test_report_of_another_ct_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write_ct(tmp_path / "a.nii.gz", seed=1), write_ct(tmp_path / "b.nii.gz", seed=2)
    labels = _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    assert segment(first, "-o", tmp_path / "out") == 0
    before = (tmp_path / "out" / "a" / "report.json").read_bytes()
    assert _quantify(second, labels, "-o", tmp_path / "out" / "a") == 1
    assert "is the report of another CT" in capsys.readouterr().err
    assert (tmp_path / "out" / "a" / "report.json").read_bytes() == before


def test_unreadable_segmentation_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = write_ct(tmp_path / "a.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    assert _quantify(ct, tmp_path / "broken.nii.gz") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken.nii.gz" in line


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", '{"tool": "another", "input": 3}'])
def test_report_of_something_else_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "report.json").write_text(content)
    assert _quantify(ct, labels, "-o", tmp_path / "figures") == 1
    assert "is damaged, or no report of CovidSeg" in capsys.readouterr().err
    assert (tmp_path / "figures" / "report.json").read_text() == content
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"report.json"}


def test_output_that_is_a_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    assert _quantify(ct, labels, "-o", labels) == 2
    printed = capsys.readouterr()
    assert "is a file: give an output folder (-o OUT)" in printed.err
    assert printed.out == ""


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_output_that_is_a_link_to_nothing_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert _quantify(ct, labels, "-o", tmp_path / "link") == 2
    assert f"'{tmp_path / 'link'}' is a link to nothing. Mend the link" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_folder_given_as_segmentation_is_a_usage_error_that_names_the_file_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ct, folder = write_ct(tmp_path / "a.nii.gz"), tmp_path / "out" / "a"
    assert segment(ct, "-o", tmp_path / "out", "--no-preview") == 0
    capsys.readouterr()
    assert _quantify(ct, folder) == 2
    file = folder / "segmentation.seg.nrrd"
    assert capsys.readouterr().err == f"covidseg: error: SEGMENTATION '{folder}' is a folder: give '{file}'.\n"
    file.unlink()
    assert _quantify(ct, folder) == 2
    assert f"'{folder}' is a folder: give a .seg.nrrd or labelmap file." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (np.s_[:, :, 24:-24], ["reach the border of the image"]),
        (np.s_[34:], ["reach the first or the last slice"]),
        (np.s_[:], []),
    ],
)
def test_lungs_that_the_image_cuts_are_warned_of_in_a_folder_without_a_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: Any, words: list[str]
) -> None:
    import SimpleITK
    from CovidSegLib.segmentation_file import write_labelmap_nifti

    phantom = small_phantom(3)
    hu, labels = (np.ascontiguousarray(values[cut]) for values in (phantom.ct.hu_kji, phantom.labelmap_kji))
    geometry = Geometry(size_ijk=(hu.shape[2], hu.shape[1], hu.shape[0]), spacing_ijk_mm=SPACING_IJK_MM)
    SimpleITK.WriteImage(geometry.to_sitk(hu), str(tmp_path / "a.nii.gz"))
    write_labelmap_nifti(tmp_path / "l.nii.gz", labelmap_kji=labels, geometry=geometry)
    assert _quantify(tmp_path / "a.nii.gz", tmp_path / "l.nii.gz", "-o", tmp_path / "figures") == 0
    reported = [text for text in report_of(tmp_path / "figures")["warnings"] if "The lungs reach" in text]
    assert len(reported) == len(words)
    assert all(part in text for part, text in zip(words, reported, strict=True))
    printed = [line for line in capsys.readouterr().out.splitlines() if "The lungs reach" in line]
    assert printed == [f"warning: {text}" for text in reported]


def test_figures_do_not_go_into_a_folder_that_a_run_is_writing_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantify_command, "_LOCK_PAUSE_S", 0.0)
    ct, out = write_ct(tmp_path / "a.nii.gz", infected_slices=4), tmp_path / "out"
    assert segment(ct, "-o", out, "--no-preview") == 0
    before = tree_without_times(out)
    capsys.readouterr()
    with run_lock(out):
        for folder in (out / "a", out / "new", out):
            assert _quantify(ct, out / "a" / "segmentation.seg.nrrd", "-o", folder) == 1
            printed = capsys.readouterr()
            assert f"another CovidSeg run is writing to '{out}': wait for it" in printed.err
            assert printed.out.startswith("region")  # the figures are shown all the same
        assert not (out / "new").exists()
    assert tree_without_times(out) == before


def test_figures_wait_for_those_of_another_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ct, labels = write_ct(tmp_path / "a.nii.gz"), _corrected(tmp_path / "l.nii.gz", infected_slices=1)
    figures = tmp_path / "figures"
    figures.mkdir()
    other = run_lock(figures)
    other.__enter__()

    def ends(_seconds: float) -> None:
        other.__exit__(None, None, None)

    monkeypatch.setattr(quantify_command.time, "sleep", ends)
    assert _quantify(ct, labels, "-o", figures) == 0
    assert {path.name for path in figures.iterdir()} == {"report.json", "report.csv"}


def test_figures_of_a_segmentation_that_a_run_replaced_meanwhile_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the new case would have the old one's figures."""
    ct, out = write_ct(tmp_path / "a.nii.gz", infected_slices=4), tmp_path / "out"
    assert segment(ct, "-o", out) == 0
    measure = quantify_command._measure

    def replaced_after_measuring(*paths: Path, **options: Any) -> Any:
        measured = measure(*paths, **options)
        assert segment(ct, "-o", out, "--overwrite", "--mode", "fast") == 0
        return measured

    monkeypatch.setattr(quantify_command, "_measure", replaced_after_measuring)
    assert _quantify(ct, out / "a" / "segmentation.seg.nrrd", "-o", out / "a") == 1
    assert "was replaced while it was measured: run this again" in capsys.readouterr().err
    report = report_of(out / "a")
    assert report["runtime"]["mode"] == "fast" and report["warnings"] == []
