"""A CT in the scene becomes segments on its own grid, a table, and places in the subject hierarchy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from helpers_mrml import (
    GRIDS,
    FakeEngine,
    add_volume,
    centroid_ras,
    hu_of,
    labels_on,
    matrix_of,
    nodes_of,
    rotation,
    table_cells,
    vtk_matrix,
    whole_lung,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.labels import SEGMENTS, Label  # noqa: E402
from CovidSegLib.logic import CovidSegLogic  # noqa: E402
from CovidSegLib.pipeline import segment  # noqa: E402
from CovidSegLib.quantify import quantify_labelmap  # noqa: E402
from CovidSegLib.scenes.segments import segment_mask  # noqa: E402
from CovidSegLib.scenes.warnings import segment_warnings  # noqa: E402

pytestmark = pytest.mark.slicer


def expected_masks(case: Any) -> dict[str, np.ndarray]:
    return {
        "left_lung": whole_lung(case.labels_kji, label=Label.LEFT_LUNG, matrix=case.matrix),
        "right_lung": whole_lung(case.labels_kji, label=Label.RIGHT_LUNG, matrix=case.matrix),
        "infection": case.labels_kji == Label.INFECTION,
    }


def exported_mask(context: Any, *, segmentation: Any, segment_id: str, volume: Any) -> np.ndarray:
    """Return a segment through Slicer's own export, independent of our reader."""
    from vtk.util.numpy_support import vtk_to_numpy

    ids = vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    node = context.add_node("vtkMRMLLabelMapVolumeNode", name="export")
    assert context.logic("Segmentations").ExportSegmentsToLabelmapNode(segmentation, ids, node, volume)
    image = node.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]) != 0


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_segments_lie_exactly_on_the_grid_of_the_ct(context: Any, logic: Any, case: Any) -> None:
    outputs = logic.process(case.volume)
    segmentation = outputs.segmentationNode
    for segment_id, expected_kji in expected_masks(case).items():
        labelmap = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
        image_to_world = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(image_to_world)
        found = np.array([[image_to_world.GetElement(r, c) for c in range(4)] for r in range(4)])
        np.testing.assert_allclose(found, case.matrix, atol=1e-9)
        mask_kji = segment_mask(segmentation, segment_id=segment_id, volume_node=case.volume)
        np.testing.assert_array_equal(mask_kji, expected_kji)
        exported_kji = exported_mask(context, segmentation=segmentation, segment_id=segment_id, volume=case.volume)
        np.testing.assert_array_equal(exported_kji, expected_kji)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles_deg=st.tuples(*[st.floats(-180.0, 180.0)] * 3),
    flips=st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),
    order=st.permutations((0, 1, 2)),
    spacing_mm=st.tuples(*[st.floats(1.5, 4.5)] * 3),
)
def test_any_grid_keeps_voxels_and_sides(
    context: Any,
    logic: Any,
    angles_deg: tuple[float, float, float],
    flips: tuple[float, float, float],
    order: list[int],
    spacing_mm: tuple[float, float, float],
) -> None:
    matrix = matrix_of((rotation(angles_deg) * flips)[:, order], spacing_mm=spacing_mm)
    labels_kji = labels_on(matrix)
    volume = add_volume(context, hu_kji=hu_of(labels_kji), matrix=matrix)
    outputs = logic.process(volume)
    for segment_id, label in (("left_lung", Label.LEFT_LUNG), ("right_lung", Label.RIGHT_LUNG)):
        mask_kji = segment_mask(outputs.segmentationNode, segment_id=segment_id, volume_node=volume)
        np.testing.assert_array_equal(mask_kji, whole_lung(labels_kji, label=label, matrix=matrix))
    logic.removeOutputs(outputs)
    context.remove_node(volume)


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_left_stays_left_whatever_the_grid(logic: Any, case: Any) -> None:
    segmentation = logic.process(case.volume).segmentationNode
    left_ras, right_ras = (
        np.array(segmentation.GetSegmentCenterRAS(segment_id)) for segment_id in ("left_lung", "right_lung")
    )
    masks = expected_masks(case)
    assert left_ras[0] < right_ras[0], "x grows to the patient's right"
    # Slicer's centre is that of the segment's box along the grid axes.
    np.testing.assert_allclose(left_ras, centroid_ras(masks["left_lung"], matrix=case.matrix), atol=6.0)
    np.testing.assert_allclose(right_ras, centroid_ras(masks["right_lung"], matrix=case.matrix), atol=6.0)


def test_segments_have_stable_ids_names_colours_and_order(logic: Any, case: Any) -> None:
    segmentation = logic.process(case.volume).segmentationNode.GetSegmentation()
    assert [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())] == [
        "left_lung",
        "right_lung",
        "infection",
    ]
    for definition in SEGMENTS:
        segment = segmentation.GetSegment(definition.segment_id)
        assert segment.GetName() == definition.name
        assert segment.GetColor() == pytest.approx(definition.color_rgb)


def test_lungs_share_a_layer_and_infection_overlaps_in_another(logic: Any, case: Any) -> None:
    segmentation = logic.process(case.volume).segmentationNode.GetSegmentation()
    assert segmentation.GetNumberOfLayers() == 2
    assert segmentation.GetLayerIndex("left_lung") == segmentation.GetLayerIndex("right_lung")
    assert segmentation.GetLayerIndex("infection") != segmentation.GetLayerIndex("left_lung")


def test_reference_geometry_is_the_whole_grid_of_the_ct(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is case.volume
    text = node.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    image = slicer.vtkOrientedImageData()
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
    size = case.volume.GetImageData().GetDimensions()
    assert image.GetExtent() == (0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    found = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    np.testing.assert_allclose(found, case.matrix, atol=1e-9)


def linear_transform(context: Any, *, matrix: np.ndarray) -> Any:
    node = context.add_node("vtkMRMLLinearTransformNode", name="Registration")
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node


def grid_transform(context: Any, *, shift_mm: tuple[float, float, float]) -> Any:
    """Return a deforming transform: no shift at z below 0, growing above."""
    from vtk.util.numpy_support import numpy_to_vtk

    shape_kji = (8, 8, 8)
    shifts = np.zeros((*shape_kji, 3))
    shifts[4:] = shift_mm
    image = vtk.vtkImageData()
    image.SetDimensions(*shape_kji[::-1])
    image.SetSpacing(20.0, 20.0, 20.0)
    image.SetOrigin(-70.0, -70.0, -70.0)
    image.GetPointData().SetScalars(numpy_to_vtk(shifts.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    node = context.add_node("vtkMRMLGridTransformNode", name="Deformation")
    node.SetAndObserveTransformToParent(transform)
    return node


def test_segmentation_follows_the_ct_under_a_linear_transform(context: Any, logic: Any, case: Any) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0.0, 25.0, 40.0))
    matrix[:3, 3] = (30.0, -12.0, 8.0)
    transform = linear_transform(context, matrix=matrix)
    before = np.array(logic.process(case.volume).segmentationNode.GetSegmentCenterRAS("left_lung"))
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    outputs = logic.process(case.volume)
    assert outputs.segmentationNode.GetParentTransformNode() is transform
    assert outputs.warnings == ()
    np.testing.assert_allclose(
        outputs.segmentationNode.GetSegmentCenterRAS("left_lung"),
        matrix[:3, :3] @ before + matrix[:3, 3],
        atol=1e-6,
    )
    for segment_id, expected_kji in expected_masks(case).items():
        mask_kji = segment_mask(outputs.segmentationNode, segment_id=segment_id, volume_node=case.volume)
        np.testing.assert_array_equal(mask_kji, expected_kji)


def test_scaling_transform_is_told_in_a_warning(context: Any, logic: Any, case: Any) -> None:
    transform = linear_transform(context, matrix=np.diag([1.1, 1.0, 1.0, 1.0]))
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    (warning,) = logic.process(case.volume).warnings
    assert "Registration" in warning
    assert "1.100" in warning


def test_grid_transform_keeps_own_grid_and_warns_that_ml_are_approximate(context: Any, logic: Any, case: Any) -> None:
    transform = grid_transform(context, shift_mm=(6.0, 0.0, 3.0))
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    outputs = logic.process(case.volume)
    assert outputs.segmentationNode.GetParentTransformNode() is transform
    assert any("Deformation" in warning and "approximate" in warning for warning in outputs.warnings)
    for segment_id, expected_kji in expected_masks(case).items():
        mask_kji = segment_mask(outputs.segmentationNode, segment_id=segment_id, volume_node=case.volume)
        np.testing.assert_array_equal(mask_kji, expected_kji)


def test_sheared_ct_is_segmented_in_its_own_grid_with_a_warning(context: Any, logic: Any) -> None:
    matrix = GRIDS["axial_lps"].copy()
    matrix[1, 2] = 0.4  # each slice 0.4 mm further to the front: gantry tilt
    labels_kji = labels_on(matrix)
    volume = add_volume(context, hu_kji=hu_of(labels_kji), matrix=matrix)
    outputs = logic.process(volume)
    assert any("right angles" in warning and "approximate" in warning for warning in outputs.warnings)
    mask_kji = segment_mask(outputs.segmentationNode, segment_id="infection", volume_node=volume)
    np.testing.assert_array_equal(mask_kji, labels_kji == Label.INFECTION)


def test_table_shows_the_figures_with_units(logic: Any, case: Any) -> None:
    outputs = logic.process(case.volume)
    quantities = quantify_labelmap(
        hu_of(case.labels_kji), geometry=logic.volumeFromNode(case.volume).geometry, labelmap_kji=case.labels_kji
    )
    cells = table_cells(outputs.tableNode)
    assert list(cells) == ["both lungs", "left lung", "right lung"]
    for row, region in (("both lungs", quantities.lungs), ("left lung", quantities.left_lung)):
        assert float(cells[row]["volume_ml"]) == pytest.approx(region.volume_ml, abs=0.05)
        assert float(cells[row]["infection_ml"]) == pytest.approx(region.infection_ml, abs=0.05)
        assert float(cells[row]["poi_percent"]) == pytest.approx(region.poi_percent, abs=0.005)
        assert float(cells[row]["mean_hu"]) == pytest.approx(region.hu.mean, abs=0.05)
        assert float(cells[row]["mass_g"]) == pytest.approx(region.mass_g, abs=0.05)
    assert outputs.tableNode.GetColumnUnitLabel("volume_ml") == "ml"
    assert outputs.tableNode.GetColumnUnitLabel("poi_percent") == "%"


def test_missing_lung_reads_not_available_and_never_zero_percent(context: Any, logic: Any) -> None:
    labels_kji = labels_on(GRIDS["axial_lps"])
    labels_kji[whole_lung(labels_kji, label=Label.RIGHT_LUNG, matrix=GRIDS["axial_lps"])] = Label.BACKGROUND
    volume = add_volume(context, hu_kji=hu_of(labels_kji), matrix=GRIDS["axial_lps"])
    outputs = logic.process(volume)
    cells = table_cells(outputs.tableNode)
    assert cells["right lung"]["poi_percent"] == "n/a"
    assert cells["right lung"]["mean_hu"] == "n/a"
    assert float(cells["left lung"]["poi_percent"]) > 0
    mask_kji = segment_mask(outputs.segmentationNode, segment_id="right_lung", volume_node=volume)
    assert not mask_kji.any()


def test_ct_without_infection_gives_an_empty_infection_segment(context: Any, logic: Any) -> None:
    labels_kji = labels_on(GRIDS["oblique"])
    labels_kji[labels_kji == Label.INFECTION] = Label.BACKGROUND
    volume = add_volume(context, hu_kji=hu_of(labels_kji), matrix=GRIDS["oblique"])
    outputs = logic.process(volume)
    assert table_cells(outputs.tableNode)["both lungs"]["poi_percent"] == "0.00"
    assert not segment_mask(outputs.segmentationNode, segment_id="infection", volume_node=volume).any()


def test_outputs_stand_beside_the_ct_in_its_study(context: Any, logic: Any, case: Any) -> None:
    hierarchy = context.subject_hierarchy()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "P")
    study = hierarchy.CreateStudyItem(patient, "S")
    hierarchy.CreateItem(study, case.volume)
    outputs = logic.process(case.volume)
    for node in (outputs.segmentationNode, outputs.tableNode):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_segmentation_knows_its_table_the_ct_and_the_report(logic: Any, case: Any) -> None:
    outputs = logic.process(case.volume)
    segmentation = outputs.segmentationNode
    assert segmentation.GetNodeReference("CovidSeg.table") is outputs.tableNode
    assert segmentation.GetNodeReference("CovidSeg.volume") is case.volume
    assert json.loads(segmentation.GetAttribute("CovidSeg.report")) == outputs.report


def test_engine_gets_a_copy_in_hu_and_the_options(logic: Any, engine: FakeEngine, case: Any) -> None:
    logic.process(case.volume, mode="fast", device="cpu", progress=print)
    (call,) = engine.calls
    assert (call["mode"], call["device"], call["progress"]) == ("fast", "cpu", print)
    np.testing.assert_array_equal(call["ct"].hu_kji, hu_of(case.labels_kji))
    call["ct"].hu_kji[:] = 0
    assert logic.volumeFromNode(case.volume).hu_kji.min() < 0, "the scene's voxels are not the engine's"


def test_engine_is_the_pipeline_unless_another_is_given(context: Any) -> None:
    assert CovidSegLogic(context=context).engine is segment


def test_input_volume_is_not_modified(logic: Any, case: Any) -> None:
    before = (case.volume.GetImageData().GetMTime(), logic.volumeFromNode(case.volume).fingerprint)
    logic.process(case.volume)
    assert (case.volume.GetImageData().GetMTime(), logic.volumeFromNode(case.volume).fingerprint) == before


def test_remove_outputs_leaves_the_scene_as_before(context: Any, logic: Any, case: Any) -> None:
    before = nodes_of(context)
    logic.removeOutputs(logic.process(case.volume))
    # The scene makes its one subject hierarchy on first use.
    assert [node for node in nodes_of(context) if "SubjectHierarchy" not in node] == [
        node for node in before if "SubjectHierarchy" not in node
    ]


@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_result_on_its_ct_has_no_warning_of_where_it_lies(
    context: Any, logic: Any, grid: str, transformed: bool, sheared: bool
) -> None:
    matrix = GRIDS[grid].copy()
    if sheared:
        matrix[1, 2] += 0.4
    volume = add_volume(context, hu_kji=hu_of(labels_on(GRIDS[grid])), matrix=matrix)
    if transformed:
        transform = context.add_node("vtkMRMLLinearTransformNode", name="moved")
        transform.SetMatrixTransformToParent(vtk_matrix(matrix_of(rotation((9.0, 4.0, -70.0)), spacing_mm=(1, 1, 1))))
        volume.SetAndObserveTransformNodeID(transform.GetID())
    node = logic.process(volume).segmentationNode
    assert segment_warnings(node, volume_node=volume) == ()
    assert segment_warnings(node, volume_node=None) == (), "nothing is known of a CT that is not there"
    volume.SetOrigin(*(coordinate + 10.0 for coordinate in volume.GetOrigin()))
    (warning,) = segment_warnings(node, volume_node=volume)
    assert "The CT was moved" in warning
