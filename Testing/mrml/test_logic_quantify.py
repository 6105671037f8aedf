"""Figures of segments as the user left them, whatever they are called and wherever they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, add_volume, hu_of, table_cells, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")

from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.intensity import to_hounsfield  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.quantify import quantify_labelmap  # noqa: E402
from CovidSegLib.scenes.segments import find_segments, oriented_image, segment_mask  # noqa: E402

pytestmark = pytest.mark.slicer


def draw(node: Any, *, segment_id: str, mask_kji: np.ndarray, matrix: np.ndarray, logic: Any) -> None:
    """Set a segment's voxels as an editor effect does, letting segments overlap."""
    segmentations = logic.context.logic("Segmentations")
    assert segmentations.SetBinaryLabelmapToSegment(
        oriented_image(mask_kji.astype(np.uint8), matrix=matrix), node, segment_id, segmentations.MODE_REPLACE
    )


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_untouched_segments_give_the_figures_of_the_run(logic: Any, case: Any) -> None:
    outputs = logic.process(case.volume)
    quantities = logic.quantifySegmentation(outputs.segmentationNode, volumeNode=case.volume)
    assert quantities.to_dict() == {key: outputs.report[key] for key in quantities.to_dict()}


def test_ct_that_the_segmentation_refers_to_is_taken_by_itself(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    assert logic.quantifySegmentation(node) == logic.quantifySegmentation(node, volumeNode=case.volume)
    context.remove_node(case.volume)
    with pytest.raises(InputError, match=r"'.*': The CT of this segmentation is not in the scene\. Load it"):
        logic.quantifySegmentation(node)


def test_what_is_no_segmentation_is_refused(logic: Any, case: Any) -> None:
    for node in (None, case.volume):
        with pytest.raises(InputError, match="There is no segmentation to measure"):
            logic.quantifySegmentation(node, volumeNode=case.volume)


def test_erasing_infection_gives_its_voxels_back_to_the_lung(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    before = logic.quantifySegmentation(node, volumeNode=case.volume)
    nothing = np.zeros(case.labels_kji.shape, dtype=bool)
    draw(node, segment_id="infection", mask_kji=nothing, matrix=case.matrix, logic=logic)
    after = logic.quantifySegmentation(node, volumeNode=case.volume)
    assert after.poi_percent == 0.0
    assert after.lungs.volume_ml == pytest.approx(before.lungs.volume_ml)


def test_painting_infection_inside_a_lung_never_shrinks_the_lung(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    before = logic.quantifySegmentation(node, volumeNode=case.volume)
    left_kji = segment_mask(node, segment_id="left_lung", volume_node=case.volume)
    painted_kji = left_kji | (case.labels_kji == Label.INFECTION)
    draw(node, segment_id="infection", mask_kji=painted_kji, matrix=case.matrix, logic=logic)
    after = logic.quantifySegmentation(node, volumeNode=case.volume)
    assert after.left_lung.poi_percent == 100.0
    assert after.left_lung.volume_ml == pytest.approx(before.left_lung.volume_ml)
    assert after.right_lung.poi_percent == pytest.approx(before.right_lung.poi_percent)


def test_names_do_not_matter_but_ids_do(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    before = logic.quantifySegmentation(node, volumeNode=case.volume)
    segmentation = node.GetSegmentation()
    segmentation.GetSegment("left_lung").SetName("infection")
    segmentation.GetSegment("infection").SetName("right lung")
    segmentation.GetSegment("right_lung").SetName("left lung")
    assert logic.quantifySegmentation(node, volumeNode=case.volume) == before


def test_segments_with_other_ids_are_found_by_terminology(context: Any, logic: Any, case: Any) -> None:
    source = logic.process(case.volume).segmentationNode
    before = logic.quantifySegmentation(source, volumeNode=case.volume)
    node = context.add_node("vtkMRMLSegmentationNode", name="from elsewhere")
    for index, segment_id in enumerate(("infection", "right_lung", "left_lung"), start=1):
        segment = slicer.vtkSegment()
        segment.DeepCopy(source.GetSegmentation().GetSegment(segment_id))
        segment.SetName("?")
        node.GetSegmentation().AddSegment(segment, f"Segment_{index}")
    assert find_segments(node) == {"infection": "Segment_1", "right_lung": "Segment_2", "left_lung": "Segment_3"}
    assert logic.quantifySegmentation(node, volumeNode=case.volume) == before


def test_named_like_ours_without_id_or_terminology_is_not_ours(context: Any, logic: Any, case: Any) -> None:
    node = context.add_node("vtkMRMLSegmentationNode", name="by name")
    for index, name in enumerate(("left lung", "right lung", "infection")):
        node.GetSegmentation().AddEmptySegment(f"Segment_{index}", name)
    with pytest.raises(InputError, match="'by name': This segmentation has no segments of CovidSeg"):
        logic.quantifySegmentation(node, volumeNode=case.volume)


def test_deleted_infection_segment_is_an_error_not_zero_percent(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().RemoveSegment("infection")
    with pytest.raises(InputError, match="The infection segment is missing"):
        logic.quantifySegmentation(node, volumeNode=case.volume)


def test_deleted_lung_segment_is_undefined_for_that_lung(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().RemoveSegment("right_lung")
    case_labels = case.labels_kji == Label.INFECTION
    left_kji = segment_mask(node, segment_id="left_lung", volume_node=case.volume)
    draw(node, segment_id="infection", mask_kji=case_labels & left_kji, matrix=case.matrix, logic=logic)
    quantities = logic.quantifySegmentation(node, volumeNode=case.volume)
    assert quantities.right_lung.poi_percent is None
    assert quantities.left_lung.poi_percent > 0


def test_empty_infection_segment_of_the_editor_counts_as_none(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().RemoveSegment("infection")
    node.GetSegmentation().AddEmptySegment("infection", "infection")
    assert logic.quantifySegmentation(node, volumeNode=case.volume).poi_percent == 0.0


def test_segments_on_a_finer_grid_are_brought_onto_the_ct(context: Any, logic: Any, case: Any) -> None:
    fine = case.matrix.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= fine[:3, :3] @ [0.5, 0.5, 0.5]
    fine_kji = case.labels_kji.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    node = logic.process(add_volume(context, hu_kji=hu_of(fine_kji), matrix=fine)).segmentationNode
    expected = quantify_labelmap(
        hu_of(case.labels_kji), geometry=logic.volumeFromNode(case.volume).geometry, labelmap_kji=case.labels_kji
    )
    quantities = logic.quantifySegmentation(node, volumeNode=case.volume)
    assert quantities.lungs.volume_ml == pytest.approx(expected.lungs.volume_ml)
    assert quantities.poi_percent == pytest.approx(expected.poi_percent)


def test_segments_drawn_on_a_larger_grid_are_cut_to_the_ct(context: Any, logic: Any, case: Any) -> None:
    larger_kji = np.pad(case.labels_kji, 3)
    larger = case.matrix.copy()
    larger[:3, 3] -= larger[:3, :3] @ [3, 3, 3]
    node = logic.process(add_volume(context, hu_kji=hu_of(larger_kji), matrix=larger)).segmentationNode
    everything = np.ones(larger_kji.shape, dtype=bool)
    draw(node, segment_id="left_lung", mask_kji=everything, matrix=larger, logic=logic)
    assert segment_mask(node, segment_id="left_lung", volume_node=case.volume).all()
    infection_kji = segment_mask(node, segment_id="infection", volume_node=case.volume)
    np.testing.assert_array_equal(infection_kji, case.labels_kji == Label.INFECTION)


def test_segments_wholly_outside_the_ct_give_an_empty_mask(context: Any, logic: Any, case: Any) -> None:
    far = case.matrix.copy()
    far[:3, 3] += far[:3, :3] @ [500, 0, -300]
    node = logic.process(add_volume(context, hu_kji=hu_of(case.labels_kji), matrix=far)).segmentationNode
    assert not segment_mask(node, segment_id="infection", volume_node=case.volume).any()


def test_resampling_agrees_with_pasting_where_voxels_coincide(
    logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = logic.process(case.volume).segmentationNode
    monkeypatch.setattr("CovidSegLib.scenes.segments.whole_voxel_offset", lambda *arguments, **options: None)
    mask_kji = segment_mask(node, segment_id="infection", volume_node=case.volume)
    np.testing.assert_array_equal(mask_kji, case.labels_kji == Label.INFECTION)


def test_segmentation_under_another_transform_is_measured_where_it_lies(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    shift = np.eye(4)
    shift[:3, 3] = case.matrix[:3, :3] @ [2, -1, 1]  # whole voxels along i, j, k
    transform = context.add_node("vtkMRMLLinearTransformNode", name="T")
    transform.SetMatrixTransformToParent(vtk_matrix(shift))
    node.SetAndObserveTransformNodeID(transform.GetID())
    mask_kji = segment_mask(node, segment_id="infection", volume_node=case.volume)
    expected_kji = np.zeros_like(mask_kji)
    expected_kji[1:, :-1, 2:] = (case.labels_kji == Label.INFECTION)[:-1, 1:, :-2]
    np.testing.assert_array_equal(mask_kji, expected_kji)


def test_table_follows_the_edited_segments(logic: Any, case: Any) -> None:
    outputs = logic.process(case.volume)
    nothing = np.zeros(case.labels_kji.shape, dtype=bool)
    draw(outputs.segmentationNode, segment_id="infection", mask_kji=nothing, matrix=case.matrix, logic=logic)
    quantities = logic.quantifySegmentation(outputs.segmentationNode, volumeNode=case.volume)
    logic.updateTable(outputs.tableNode, quantities=quantities)
    assert table_cells(outputs.tableNode)["both lungs"]["poi_percent"] == "0.00"


def test_grey_ct_is_measured_in_hounsfield_units(
    context: Any, logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(to_hounsfield.__kwdefaults__, "lungs_found", lambda *_: True)  # two boxes are no chest
    node = logic.process(case.volume).segmentationNode
    grey_kji = np.clip(np.rint((hu_of(case.labels_kji) + 1250.0) * 255.0 / 1500.0), 0, 255).astype(np.uint8)
    grey = add_volume(context, hu_kji=grey_kji, matrix=case.matrix)
    expected = logic.quantifySegmentation(node, volumeNode=case.volume).lungs
    found = logic.quantifySegmentation(node, volumeNode=grey).lungs
    assert found.hu.mean == pytest.approx(expected.hu.mean, abs=3.0)
    assert found.volume_ml == pytest.approx(expected.volume_ml)


def test_volume_without_voxels_is_refused(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    with pytest.raises(InputError, match="no image data"):
        logic.quantifySegmentation(node, volumeNode=context.add_node("vtkMRMLScalarVolumeNode", name="empty"))
