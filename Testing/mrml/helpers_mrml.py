"""A CT of known content for the scene: two boxes of lung, an infection of another size in each.

The boxes lie in patient space, so for any grid the right answer follows from the coordinates
alone: which voxels are left lung, right lung and infection, and where left is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.quantify import Quantities, quantify_labelmap

SIZE_IJK = (24, 20, 16)
LUNG_HU, INFECTION_HU, BODY_HU = -850, -400, 40
TEXTURE_HU = 61
"""Values vary by so much above these, as in a CT; an image of three values would be a labelmap."""

LUNG_HALF_MM = np.array([8.0, 14.0, 14.0])
LUNG_CENTRE_X_MM = {Label.LEFT_LUNG: -12.0, Label.RIGHT_LUNG: 12.0}
INFECTION_HALF_MM = {Label.LEFT_LUNG: 4.0, Label.RIGHT_LUNG: 6.0}


def rotation(angles_deg: tuple[float, float, float]) -> np.ndarray:
    """Return the (3, 3) rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def matrix_of(directions: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return an ijk-to-RAS matrix whose grid of SIZE_IJK is centred near (5, -7, 11) mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(directions, dtype=float) * spacing_mm
    matrix[:3, 3] = np.array([5.0, -7.0, 11.0]) - matrix[:3, :3] @ ((np.array(SIZE_IJK) - 1) / 2)
    return matrix


GRIDS: dict[str, np.ndarray] = {
    "axial_lps": matrix_of(np.diag([-1, -1, 1]), spacing_mm=(2.0, 2.0, 3.0)),
    "slices_head_first": matrix_of(np.diag([-1, -1, -1]), spacing_mm=(2.0, 2.0, 3.0)),
    "ras_anisotropic": matrix_of(np.eye(3), spacing_mm=(1.9, 2.3, 4.1)),
    "axes_swapped": matrix_of(np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]]), spacing_mm=(2.5, 2.0, 3.0)),
    "axes_rolled": matrix_of(np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]]), spacing_mm=(2.2, 2.4, 2.6)),
    "oblique": matrix_of(rotation((12.0, -20.0, 31.0)), spacing_mm=(1.7, 2.1, 3.3)),
    "oblique_left_handed": matrix_of(rotation((5.0, 9.0, -14.0)) @ np.diag([-1, 1, 1]), spacing_mm=(2.0, 2.0, 3.0)),
}


def labels_on(matrix: np.ndarray, *, size_ijk: tuple[int, int, int] = SIZE_IJK) -> np.ndarray:
    """Return the true exclusive labelmap (k, j, i) of the boxes on a grid."""
    indices_ijk = np.stack(np.meshgrid(*(np.arange(n) for n in size_ijk), indexing="ij"), axis=-1)
    centre_mm = matrix[:3, :3] @ ((np.array(size_ijk) - 1) / 2) + matrix[:3, 3]
    point_ras = indices_ijk @ matrix[:3, :3].T + matrix[:3, 3] - centre_mm
    labels = np.zeros(size_ijk, dtype=np.uint8)
    for label, x_mm in LUNG_CENTRE_X_MM.items():
        offset_mm = np.abs(point_ras - [x_mm, 0.0, 0.0])
        labels[(offset_mm <= LUNG_HALF_MM).all(axis=-1)] = label
        labels[(offset_mm <= INFECTION_HALF_MM[label]).all(axis=-1)] = Label.INFECTION
    return np.ascontiguousarray(labels.transpose(2, 1, 0))


def hu_of(labels_kji: np.ndarray) -> np.ndarray:
    """Return the (k, j, i) int16 CT of a labelmap, textured."""
    hu_kji = np.full(labels_kji.shape, BODY_HU, dtype=np.int16)
    hu_kji[(labels_kji == Label.LEFT_LUNG) | (labels_kji == Label.RIGHT_LUNG)] = LUNG_HU
    hu_kji[labels_kji == Label.INFECTION] = INFECTION_HU
    texture = np.arange(hu_kji.size, dtype=np.int64) * 7 % TEXTURE_HU
    return hu_kji + texture.reshape(hu_kji.shape).astype(np.int16)


def whole_lung(labels_kji: np.ndarray, *, label: Label, matrix: np.ndarray) -> np.ndarray:
    """Return the mask of one lung including the infection on its side of the patient."""
    x_ras = _x_ras(labels_kji.shape, matrix=matrix)
    middle = _x_ras(labels_kji.shape, matrix=matrix).mean()
    side = x_ras < middle if label == Label.LEFT_LUNG else x_ras > middle
    return (labels_kji == label) | ((labels_kji == Label.INFECTION) & side)


def _x_ras(shape_kji: tuple[int, ...], *, matrix: np.ndarray) -> np.ndarray:
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape_kji), indexing="ij")
    return np.asarray(matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3])


def centroid_ras(mask_kji: np.ndarray, *, matrix: np.ndarray) -> np.ndarray:
    """Return the centre of a mask in patient space (mm)."""
    index_ijk = np.argwhere(mask_kji)[:, ::-1].mean(axis=0)
    return np.asarray(matrix[:3, :3] @ index_ijk + matrix[:3, 3])


def vtk_matrix(matrix: np.ndarray) -> Any:
    """Return a (4, 4) array as vtkMatrix4x4."""
    import vtk

    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=float).ravel().tolist())
    return result


def add_volume(
    context: Any, *, hu_kji: np.ndarray, matrix: np.ndarray, class_name: str = "vtkMRMLScalarVolumeNode"
) -> Any:
    """Return a new volume node "CT" in the scene, with display node."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(*hu_kji.shape[2::-1])
    components = hu_kji.shape[3] if hu_kji.ndim == 4 else 1
    image.GetPointData().SetScalars(numpy_to_vtk(hu_kji.reshape(-1, components).squeeze(), deep=True))
    node = context.add_node(class_name, name="CT")
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtk_matrix(matrix))
    node.CreateDefaultDisplayNodes()
    return node


@dataclass(frozen=True)
class FakeResult:
    """What `pipeline.SegmentationResult` offers, without a network."""

    labelmap: np.ndarray
    geometry: Geometry
    quantities: Quantities
    name: str = "CT"
    fingerprint: str = "sha256:0"
    warnings: tuple[str, ...] = ()
    uncertainty: np.ndarray | None = None

    def report(self) -> dict[str, Any]:
        return {"case": self.name, **self.quantities.to_dict(), "warnings": list(self.warnings)}


@dataclass
class FakeEngine:
    """Segments by HU and by side of the patient; remembers what it was given.

    `before_return` runs when the work is done, to let a test disturb the scene meanwhile.
    """

    before_return: Callable[[], None] = lambda: None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, ct: Any, **options: Any) -> FakeResult:
        self.calls.append({"ct": ct, **options})
        labels_kji = segment_by_threshold(ct.hu_kji, geometry=ct.geometry)
        quantities = quantify_labelmap(ct.hu_kji, geometry=ct.geometry, labelmap_kji=labels_kji)
        self.before_return()
        doubt_kji = doubt_about(labels_kji) if options.get("uncertainty") else None
        return FakeResult(labels_kji, ct.geometry, quantities, ct.name, ct.fingerprint, tuple(ct.warnings), doubt_kji)


def add_surfaces(context: Any, *, name: str) -> Any:
    """Add a segmentation node whose only segment is a surface, a ball."""
    import vtk

    node = context.add_node("vtkMRMLSegmentationNode", name=name)
    node.SetSourceRepresentationToClosedSurface()
    source = vtk.vtkSphereSource()
    source.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(source.GetOutput(), "ball", [1.0, 0.0, 0.0], "ball")
    return node


def doubt_about(labels_kji: np.ndarray) -> np.ndarray:
    """Return the engine's map (k, j, i) uint8: sure of all but the infection, and there less so slice by slice."""
    percent = 40 + np.arange(len(labels_kji), dtype=np.uint8)[:, None, None]
    return np.where(labels_kji == Label.INFECTION, percent, 0).astype(np.uint8)


def segment_by_threshold(hu_kji: np.ndarray, *, geometry: Geometry) -> np.ndarray:
    """Return the exclusive labelmap of a CT made by `hu_of`; sides come from the geometry alone."""
    x_ras = _x_ras(hu_kji.shape, matrix=geometry.ijk_to_ras)
    left_kji = x_ras < x_ras.mean()
    labels_kji = np.zeros(hu_kji.shape, dtype=np.uint8)
    lung_kji = (hu_kji >= LUNG_HU) & (hu_kji < LUNG_HU + TEXTURE_HU)
    labels_kji[lung_kji & left_kji] = Label.LEFT_LUNG
    labels_kji[lung_kji & ~left_kji] = Label.RIGHT_LUNG
    labels_kji[(hu_kji >= INFECTION_HU) & (hu_kji < INFECTION_HU + TEXTURE_HU)] = Label.INFECTION
    return labels_kji


def nodes_of(context: Any) -> list[str]:
    """Return the IDs of all nodes in the scene, to compare before and after."""
    scene = context.scene
    return sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes()))


def hierarchy_items(context: Any) -> list[int]:
    """Return all subject-hierarchy items."""
    import vtk

    hierarchy = context.subject_hierarchy()
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    return [items.GetId(index) for index in range(items.GetNumberOfIds())]


def table_cells(node: Any) -> dict[str, dict[str, str]]:
    """Return a results table as region -> column -> text."""
    names = [node.GetColumnName(column) for column in range(node.GetNumberOfColumns())]
    rows = [
        [node.GetCellText(row, column) for column in range(node.GetNumberOfColumns())]
        for row in range(node.GetNumberOfRows())
    ]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}
