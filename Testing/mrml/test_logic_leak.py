"""Fifty runs with their volumes and results removed leave nodes, voxels and memory as they were."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, FakeEngine, add_volume, hierarchy_items, hu_of, labels_on, nodes_of

pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk

pytestmark = pytest.mark.slicer

SIZE_IJK = (128, 128, 64)
REPETITIONS = 50
VOLUME_MB = np.prod(SIZE_IJK) * 2 / 1e6
STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return int(STATM.read_text().split()[1]) * 4096 / 1e6


def one_run(context: Any, logic: Any, engine: FakeEngine, *, hu_kji: np.ndarray) -> list[Any]:
    """Load, segment, measure, remove; return weak references to what must be gone."""
    volume = add_volume(context, hu_kji=hu_kji, matrix=GRIDS["oblique"])
    outputs = logic.process(volume)
    outputs = logic.process(volume, outputSegmentation=outputs.segmentationNode, uncertainty=True)
    logic.quantifySegmentation(outputs.segmentationNode, volumeNode=volume)
    segmentation = outputs.segmentationNode.GetSegmentation()
    references = []
    for target in (
        volume,
        volume.GetImageData(),
        outputs.segmentationNode,
        segmentation,
        segmentation.GetSegment("infection"),
        outputs.segmentationNode.GetBinaryLabelmapInternalRepresentation("left_lung"),
        outputs.tableNode,
        outputs.uncertaintyNode,
        outputs.uncertaintyNode.GetImageData(),
    ):
        reference = vtk.vtkWeakReference()
        reference.Set(target)
        references.append(reference)
    logic.removeOutputs(outputs)
    context.remove_node(volume)
    engine.calls.clear()
    return references


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc, which is Linux")
def test_fifty_repetitions_leak_no_nodes_objects_or_memory(context: Any, logic: Any, engine: FakeEngine) -> None:
    hu_kji = hu_of(labels_on(GRIDS["oblique"], size_ijk=SIZE_IJK))
    for _ in range(3):  # allocators and caches settle
        one_run(context, logic, engine, hu_kji=hu_kji)
    gc.collect()
    nodes, items, start_mb = nodes_of(context), hierarchy_items(context), resident_mb()
    for _ in range(REPETITIONS):
        references = one_run(context, logic, engine, hu_kji=hu_kji)
    gc.collect()
    assert [reference.Get() for reference in references] == [None] * len(references)
    assert nodes_of(context) == nodes
    assert hierarchy_items(context) == items
    grown_mb = resident_mb() - start_mb
    assert grown_mb < 10 * VOLUME_MB, f"{grown_mb:.0f} MB more after {REPETITIONS} runs of a {VOLUME_MB:.1f} MB volume"
