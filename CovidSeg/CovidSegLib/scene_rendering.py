"""A picture of a result in 3D, seen from the front: translucent lungs, the infection in them.

Rendered without a window, by EGL or OSMesa where there is no display. The surfaces are those that Slicer's
own converter makes, smoothed as in its 3D view. Used for the documentation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .case_folder import new_file
from .errors import CovidSegError, InputError
from .geometry import Geometry
from .labels import SEGMENTS
from .scene_display import SURFACE_OPACITY
from .scene_segments import find_segments, labelmap_name, make_segments
from .scene_texts import tr as _

BACKGROUND_RGB = (1.0, 1.0, 1.0)
#: Layers of translucent surface that are sorted by depth: front and back of both lungs, and folds.
PEELS = 8


def render_labelmap(
    path: str | Path, *, labelmap_kji: np.ndarray, geometry: Geometry, size: tuple[int, int] = (900, 900)
) -> None:
    """Write a picture of a labelmap's lungs and infection as PNG.

    Args:
        path: File to write, replaced if it exists.
        labelmap_kji: (k, j, i) exclusive labels, as in `Label`.
        geometry: Its grid.
        size: Width and height in pixels.

    Raises:
        InputError: There is nothing to see, or the file cannot be written.
        CovidSegError: This computer offers no way to render.
        OSError: The file cannot be put in the place of another one.
    """
    segments = make_segments(labelmap_kji, geometry=geometry, matrix=geometry.ijk_to_ras)
    _render(Path(path), surfaces=_surfaces(segments), size=size)


def render_segmentation(path: str | Path, *, segmentation_node: Any, size: tuple[int, int] = (900, 900)) -> None:
    """Write a picture of a node's CovidSeg segments as PNG, without its transforms; the node stays as it is.

    Raises:
        InputError: There is nothing to see, or the file cannot be written.
        CovidSegError: This computer offers no way to render.
        OSError: The file cannot be put in the place of another one.
    """
    segmentation = segmentation_node.GetSegmentation()
    found = find_segments(segmentation_node)
    segments = {ours: segmentation.GetSegment(node_id) for ours, node_id in found.items()}
    _render(Path(path), surfaces=_surfaces(segments), size=size)


def _surfaces(segments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the closed surface (RAS, mm) of each segment that has any voxel; the segments stay as they are."""
    import slicer

    labelmap = labelmap_name()
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule()
    surfaces = {}
    for segment_id, segment in segments.items():
        if segment.GetRepresentation(labelmap) is None:
            continue
        copy = slicer.vtkSegment()  # takes the surface; the voxels themselves are shared
        copy.SetLabelValue(segment.GetLabelValue())
        copy.AddRepresentation(labelmap, segment.GetRepresentation(labelmap))
        if rule.Convert(copy) and copy.GetRepresentation(surface).GetNumberOfCells():
            surfaces[segment_id] = copy.GetRepresentation(surface)
    return surfaces


def _render(path: Path, *, surfaces: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Render surfaces, by segment ID, into a file."""
    if not path.parent.is_dir():
        raise InputError(_("{path}: cannot be written, because the folder is missing.").format(path=path))
    if not surfaces:
        raise InputError(_("There are neither lungs nor infection to be shown. Segment the CT first."))
    window = _window()
    window.SetAlphaBitPlanes(True)
    window.SetMultiSamples(0)  # depth peeling needs it so
    window.SetSize(*size)
    window.AddRenderer(_renderer(surfaces))
    window.Render()
    _write_png(path, window=window)
    window.Finalize()


def _renderer(surfaces: Mapping[str, Any]) -> Any:
    """Return a renderer of surfaces in their segments' colours, seen from the front."""
    import vtk

    renderer = vtk.vtkRenderer()
    renderer.SetBackground(*BACKGROUND_RGB)
    for definition in SEGMENTS:
        if definition.segment_id in surfaces:
            opacity = SURFACE_OPACITY[definition.segment_id]
            surface = surfaces[definition.segment_id]
            renderer.AddActor(_actor(surface, color_rgb=definition.color_rgb, opacity=opacity))
    renderer.SetUseDepthPeeling(True)
    renderer.SetMaximumNumberOfPeels(PEELS)
    renderer.SetOcclusionRatio(0.0)
    _look_from_front(renderer)
    return renderer


def _actor(surface: Any, *, color_rgb: tuple[float, float, float], opacity: float) -> Any:
    import vtk

    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputData(surface)
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*color_rgb)
    actor.GetProperty().SetOpacity(opacity)
    return actor


def _look_from_front(renderer: Any) -> None:
    """Look at the patient from the front, head up: the patient's right is on the picture's left."""
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(0.0, 0.0, 0.0)
    camera.SetPosition(0.0, 1.0, 0.0)
    camera.SetViewUp(0.0, 0.0, 1.0)
    camera.ParallelProjectionOn()
    renderer.ResetCamera()
    camera.Zoom(1.3)
    renderer.ResetCameraClippingRange()


def _window_makers() -> list[Callable[[], Any]]:
    """Return the ways to get a render window, best first; without a display VTK's own choice would complain."""
    import vtk

    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        names = ("vtkEGLRenderWindow", "vtkOSOpenGLRenderWindow")
        return [getattr(vtk, name) for name in names if hasattr(vtk, name)]
    return [vtk.vtkRenderWindow]


def _window() -> Any:
    """Return a render window that can draw.

    Raises:
        CovidSegError: There is none.
    """
    for make in _window_makers():
        window = make()
        window.SetOffScreenRendering(True)
        if window.SupportsOpenGL():
            return window
    raise CovidSegError(
        _(
            "This computer offers no OpenGL, so that no 3D picture can be rendered. Install Mesa's EGL or OSMesa "
            "(Debian, Ubuntu: libegl1 libgl1-mesa-dri), or run it where there is a display."
        )
    )


def _write_png(path: Path, *, window: Any) -> None:
    """Write what the window shows; the file appears whole or not at all."""
    import vtk

    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetInputConnection(grabber.GetOutputPort())
    with new_file(path) as partial:
        writer.SetFileName(str(partial))
        writer.Write()
        if not partial.is_file():
            text = _("{path}: cannot be written. Is there room, and may you write into the folder?")
            raise InputError(text.format(path=path))
