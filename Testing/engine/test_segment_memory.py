"""Memory of a whole segmentation: a large CT fits an ordinary computer, and what is added to the CT is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_model import threshold_tensors, write_bundle

HERE = Path(__file__).resolve().parent


def measured(tmp_path: Path, *, size_ijk: tuple[int, int, int]) -> dict[str, float]:
    """Return what `memory_of_segment.py` prints, run with the paper's voxel spacing in a process of its own."""
    bundle = write_bundle(tmp_path / "bundle", tensors=threshold_tensors(), preprocessing={})
    path = os.pathsep.join([str(HERE.parent.parent / "CovidSeg"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "memory_of_segment.py"), str(bundle), *map(str, size_ijk)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}, timeout=900
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["labelled"] > 0
    print(found)
    return found  # type: ignore[no-any-return]


def test_segmenting_takes_a_bounded_amount_beyond_the_ct(tmp_path: Path) -> None:
    found = measured(tmp_path, size_ijk=(256, 256, 150))
    # Beyond the CT: the labelmap, and what has the network's spacing, whatever the CT's.
    assert found["peak_mb"] - found["before_mb"] < 600 + 3 * found["input_mb"]


@pytest.mark.slow
def test_large_ct_stays_below_6_gib(tmp_path: Path) -> None:
    found = measured(tmp_path, size_ijk=(512, 512, 600))
    assert found["input_mb"] == pytest.approx(314.6, abs=0.1)
    assert found["peak_mb"] < 6 * 1024**3 / 1e6
