"""What is said of segments that do not lie where they were made, and of a CT whose voxels are others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_mrml import rotation, vtk_matrix

pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib.scenes.warnings import remember_voxels, segment_warnings

pytestmark = pytest.mark.slicer

MOVED, OTHER_TRANSFORM, OTHER_VOXELS = "The CT was moved", "under another transform", "The CT has other voxels"


def moved(case: Any, *, change: np.ndarray) -> None:
    """Apply a (4, 4) matrix to the CT's own grid."""
    case.volume.SetIJKToRASMatrix(vtk_matrix(case.matrix @ change))


def said(node: Any, *, case: Any, voxels: str = "") -> str:
    return "\n".join(map(str, segment_warnings(node, volume_node=case.volume, voxels=voxels)))


def shift(voxels: float) -> np.ndarray:
    """Return the (4, 4) change of a grid that moves it by so many voxels along i, the axis of the smallest spacing."""
    change = np.eye(4)
    change[0, 3] = voxels
    return change


def test_nothing_is_said_of_segments_where_they_were_made(logic: Any, case: Any) -> None:
    assert said(logic.process(case.volume).segmentationNode, case=case) == ""


@pytest.mark.parametrize(("voxels", "told"), [(0.4, False), (0.6, True), (-0.6, True)])
def test_ct_counts_as_moved_from_half_a_voxel_on(logic: Any, case: Any, voxels: float, told: bool) -> None:
    node = logic.process(case.volume).segmentationNode
    moved(case, change=shift(voxels))
    assert (MOVED in said(node, case=case)) is told


def test_ct_that_was_turned_about_its_first_voxel_is_told(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    turned = np.eye(4)
    turned[:3, :3] = rotation((0.0, 0.0, 10.0)) @ case.matrix[:3, :3]
    turned[:3, 3] = case.matrix[:3, 3]
    case.volume.SetIJKToRASMatrix(vtk_matrix(turned))
    assert MOVED in said(node, case=case)


def test_spacing_that_a_file_rounded_does_not_hide_that_the_ct_was_moved(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    moved(case, change=shift(2.0) @ np.diag([1.00001, 1.00001, 1.00001, 1.0]))
    assert MOVED in said(node, case=case)


def test_another_transform_is_told_alone(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.SetAndObserveTransformNodeID(context.add_node("vtkMRMLLinearTransformNode", name="along").GetID())
    moved(case, change=shift(2.0))
    assert OTHER_TRANSFORM in said(node, case=case)
    assert MOVED not in said(node, case=case)


@pytest.mark.parametrize(("kept", "now", "told"), [("a", "b", True), ("a", "a", False), ("", "b", False)])
def test_other_voxels_are_told_if_those_segmented_are_known(
    logic: Any, case: Any, kept: str, now: str, told: bool
) -> None:
    node = logic.process(case.volume).segmentationNode
    remember_voxels(node, voxels=kept)
    assert (OTHER_VOXELS in said(node, case=case, voxels=now)) is told
    assert OTHER_VOXELS not in said(node, case=case)
