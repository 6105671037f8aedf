"""Segmentation files: Slicer's storage node reads back what was written, ours and the engine's alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, add_surfaces, nodes_of

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.cases.folder import is_leftover  # noqa: E402
from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.labels import SEGMENTS, Label  # noqa: E402
from CovidSegLib.results.segmentation_reader import read_segmentation  # noqa: E402
from CovidSegLib.results.terminology import TERMINOLOGY_TAG, terminology_entry  # noqa: E402
from CovidSegLib.scenes.segments import segment_mask  # noqa: E402
from CovidSegLib.segmentation_file import write_seg_nrrd  # noqa: E402

pytestmark = pytest.mark.slicer


def described(node: Any, *, volume: Any) -> dict[str, tuple[Any, ...]]:
    """Return ID -> name, colour, terminology and voxels of each segment, in order."""
    segmentation = node.GetSegmentation()
    result = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(index)
        segment = segmentation.GetSegment(segment_id)
        tag = vtk.reference("")
        assert segment.GetTag(TERMINOLOGY_TAG, tag)
        colour = tuple(round(part, 4) for part in segment.GetColor())
        mask_kji = segment_mask(node, segment_id=segment_id, volume_node=volume)
        result[segment_id] = (segment.GetName(), colour, str(tag), mask_kji.tobytes())
    return result


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_saved_segmentation_opens_with_names_colours_tags_and_voxels(logic: Any, case: Any, tmp_path: Path) -> None:
    node = logic.process(case.volume).segmentationNode
    path = tmp_path / "result.seg.nrrd"
    logic.saveSegmentation(node, path=path)
    loaded = logic.loadSegmentation(path)
    content = described(loaded, volume=case.volume)
    assert content == described(node, volume=case.volume)
    for definition in SEGMENTS:
        name, colour, tag, _ = content[definition.segment_id]
        assert (name, colour) == (definition.name, pytest.approx(definition.color_rgb))
        assert tag == terminology_entry(definition.segment_id)


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_engine_written_file_gives_the_same_segments(logic: Any, case: Any, tmp_path: Path) -> None:
    node = logic.process(case.volume).segmentationNode
    path = tmp_path / "engine.seg.nrrd"
    geometry = logic.volumeFromNode(case.volume).geometry
    write_seg_nrrd(path, labelmap_kji=case.labels_kji, geometry=geometry)
    loaded = logic.loadSegmentation(path)
    assert described(loaded, volume=case.volume) == described(node, volume=case.volume)
    assert loaded.GetSegmentation().GetNumberOfLayers() == 2
    assert logic.quantifySegmentation(loaded, volumeNode=case.volume) == logic.quantifySegmentation(
        node, volumeNode=case.volume
    )


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_file_saved_by_slicer_is_read_by_the_engine(logic: Any, case: Any, tmp_path: Path) -> None:
    node = logic.process(case.volume).segmentationNode
    path = tmp_path / "slicer.seg.nrrd"
    logic.saveSegmentation(node, path=path)
    masks = read_segmentation(path)
    assert masks.geometry.size_ijk == logic.volumeFromNode(case.volume).geometry.size_ijk
    np.testing.assert_allclose(masks.geometry.ijk_to_ras, case.matrix, atol=1e-4)
    np.testing.assert_array_equal(masks.infection_kji, case.labels_kji == Label.INFECTION)
    for mask_kji, segment_id in ((masks.left_kji, "left_lung"), (masks.right_kji, "right_lung")):
        np.testing.assert_array_equal(mask_kji, segment_mask(node, segment_id=segment_id, volume_node=case.volume))


def test_loaded_reference_geometry_is_the_whole_ct_grid(logic: Any, case: Any, tmp_path: Path) -> None:
    path = tmp_path / "engine.seg.nrrd"
    geometry = logic.volumeFromNode(case.volume).geometry
    write_seg_nrrd(path, labelmap_kji=case.labels_kji, geometry=geometry)
    loaded = logic.loadSegmentation(path).GetSegmentation()
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    image = slicer.vtkOrientedImageData()
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        loaded.GetConversionParameter(parameter), image, False
    )
    assert image.GetDimensions() == geometry.size_ijk


def test_empty_infection_survives_the_file(logic: Any, case: Any, tmp_path: Path) -> None:
    labels_kji = case.labels_kji.copy()
    labels_kji[labels_kji == Label.INFECTION] = Label.BACKGROUND
    ct = logic.volumeFromNode(case.volume)
    ct.hu_kji[case.labels_kji == Label.INFECTION] = 40
    node = logic.publish(logic.engine(ct), volumeNode=case.volume).segmentationNode
    path = tmp_path / "healthy.seg.nrrd"
    logic.saveSegmentation(node, path=path)
    loaded = logic.loadSegmentation(path)
    assert described(loaded, volume=case.volume) == described(node, volume=case.volume)
    assert logic.quantifySegmentation(loaded, volumeNode=case.volume).poi_percent == 0.0


@pytest.mark.parametrize("name", ["with space.seg.nrrd", "Ümlaut-肺.seg.nrrd", "dots.v1.2.seg.nrrd"])
def test_any_file_name_works(logic: Any, case: Any, tmp_path: Path, name: str) -> None:
    node = logic.process(case.volume).segmentationNode
    logic.saveSegmentation(node, path=tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name], "nothing half-written is left"
    loaded = logic.loadSegmentation(tmp_path / name)
    assert loaded.GetName() == name.removesuffix(".seg.nrrd")


def test_saving_leaves_scene_and_storage_settings_alone(context: Any, logic: Any, case: Any, tmp_path: Path) -> None:
    node = logic.process(case.volume).segmentationNode
    before = nodes_of(context)
    logic.saveSegmentation(node, path=tmp_path / "a.seg.nrrd")
    assert nodes_of(context) == before
    assert node.GetStorageNode() is None


def test_saving_replaces_an_older_file(logic: Any, case: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    path.write_text("older")
    logic.saveSegmentation(logic.process(case.volume).segmentationNode, path=path)
    assert logic.loadSegmentation(path).GetSegmentation().GetNumberOfSegments() == 3


def test_save_that_fails_leaves_the_older_file_and_only_what_the_next_run_clears(
    logic: Any, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, written = logic.process(case.volume).segmentationNode, []

    class FullDisk:
        def SetFileName(self, name: str) -> None:  # noqa: N802
            written.append(Path(name))

        def WriteData(self, node: Any) -> int:  # noqa: N802
            written[-1].write_text("half")
            return 0

    monkeypatch.setattr(slicer, "vtkMRMLSegmentationStorageNode", FullDisk)
    path = tmp_path / "a.seg.nrrd"
    path.write_text("older")
    with pytest.raises(InputError, match="cannot be written"):
        logic.saveSegmentation(node, path=path)
    assert is_leftover(written[0].name), "were the program killed here"
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_file_name_is_refused(logic: Any, case: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends so"):
        logic.saveSegmentation(logic.process(case.volume).segmentationNode, path=tmp_path / "a.stl")


def test_missing_folder_is_told(logic: Any, case: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder is missing"):
        logic.saveSegmentation(logic.process(case.volume).segmentationNode, path=tmp_path / "no" / "a.seg.nrrd")


def test_missing_file_is_told(logic: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        logic.loadSegmentation(tmp_path / "a.seg.nrrd")


def damage(content: bytes, *, kind: str) -> bytes:
    return {
        "cut short": content[:-40],
        "header alone": content[:300],
        "wrong bytes": content[:-60] + bytes(60),
        "text": b"not an image",
        "empty": b"",
    }[kind]


@pytest.mark.parametrize("kind", ["cut short", "header alone", "wrong bytes", "text", "empty"])
def test_damaged_file_is_told_and_leaves_no_node(
    context: Any, logic: Any, case: Any, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "broken.seg.nrrd"
    logic.saveSegmentation(logic.process(case.volume).segmentationNode, path=path)
    path.write_bytes(damage(path.read_bytes(), kind=kind))
    before = nodes_of(context)
    with pytest.raises(InputError, match="cannot be read as a segmentation"):
        logic.loadSegmentation(path)
    assert nodes_of(context) == before


def test_image_without_voxels_of_segments_is_refused(context: Any, logic: Any, tmp_path: Path) -> None:
    import SimpleITK as sitk

    path = tmp_path / "blank.seg.nrrd"
    sitk.WriteImage(sitk.Image(8, 8, 8, sitk.sitkUInt8), str(path))
    before = nodes_of(context)
    with pytest.raises(InputError, match="cannot be read as a segmentation"):
        logic.loadSegmentation(path)
    assert nodes_of(context) == before


def test_surfaces_are_not_saved_as_a_labelmap(context: Any, logic: Any, tmp_path: Path) -> None:
    node = add_surfaces(context, name="mine")
    with pytest.raises(InputError, match="'mine' holds surfaces, not voxels"):
        logic.saveSegmentation(node, path=tmp_path / "mine.seg.nrrd")
    assert list(tmp_path.iterdir()) == []
