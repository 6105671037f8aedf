"""The output folder: runs that start together, and what `--overwrite` may not delete."""

from __future__ import annotations

from pathlib import Path

import pytest
from CovidSegLib.batch import make_out_dir
from CovidSegLib.case_state import refuse_foreign_files
from CovidSegLib.errors import InputError

DICOM = bytes(128) + b"DICM"


@pytest.mark.parametrize(
    ("name", "content"),
    [("IM0001", DICOM), ("IM1.DCM", b""), ("slice.ima", DICOM), ("corrected.mrb", b""), ("ct.nii.gz", b"")],
)
def test_ct_or_scene_beside_a_result_is_never_overwritten(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "report.json").write_text("{}")
    refuse_foreign_files(tmp_path, overwrite=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"holds other files \\('{name}'\\)"):
        refuse_foreign_files(tmp_path, overwrite=True)


def test_output_folder_is_usable_though_another_run_clears_the_same_test_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch

    def touched_and_cleared(path: Path) -> None:
        touch(path)
        path.unlink()

    monkeypatch.setattr(Path, "touch", touched_and_cleared)
    make_out_dir(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
