"""A picture of a labelmap in 3D, seen from the front: translucent lungs, the infection in them.

Rendered without a window, by EGL or OSMesa where there is no display. The surfaces are those that Slicer's
own converter makes, smoothed as in its 3D view. The user guide's, after `make demo`:

    .venv/bin/python Testing/mrml/picture_3d.py demo-out/phantom/labelmap.nii.gz docs/phantom-3d.png
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import SEGMENTS
from CovidSegLib.readers.label_image import read_label_image
from CovidSegLib.scenes.display import SURFACE_OPACITY
from CovidSegLib.scenes.segments import labelmap_name, make_segments

BACKGROUND_RGB = (1.0, 1.0, 1.0)
#: Layers of translucent surface that are sorted by depth: front and back of both lungs, and folds.
PEELS = 8


def render_labelmap(
    path: Path, *, labelmap_kji: np.ndarray, geometry: Geometry, size: tuple[int, int] = (600, 500)
) -> None:
    """Write a picture of a labelmap's lungs and infection as PNG.

    Args:
        path: File to write, replaced if it exists.
        labelmap_kji: (k, j, i) exclusive labels, as in `Label`.
        geometry: Its grid.
        size: Width and height in pixels.

    Raises:
        RuntimeError: There is nothing to see, or this computer offers no way to render.
    """
    surfaces = _surfaces(make_segments(labelmap_kji, geometry=geometry, matrix=geometry.ijk_to_ras))
    if not surfaces:
        raise RuntimeError("there are neither lungs nor infection to be shown")
    window = render_window()
    window.SetAlphaBitPlanes(True)
    window.SetMultiSamples(0)  # depth peeling needs it so
    window.SetSize(*size)
    window.AddRenderer(_renderer(surfaces))
    window.Render()
    _write_png(path, window=window)
    window.Finalize()


def render_window() -> Any:
    """Return a render window that can draw.

    Raises:
        RuntimeError: There is none.
    """
    for make in _window_makers():
        window = make()
        window.SetOffScreenRendering(True)
        if window.SupportsOpenGL():
            return window
    raise RuntimeError(
        "this computer offers no OpenGL, so that no 3D picture can be rendered: install Mesa's EGL or OSMesa "
        "(Debian, Ubuntu: libegl1 libgl1-mesa-dri), or run it where there is a display"
    )


def _window_makers() -> list[Callable[[], Any]]:
    """Return the ways to get a render window, best first; without a display VTK's own choice would complain."""
    import vtk

    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        names = ("vtkEGLRenderWindow", "vtkOSOpenGLRenderWindow")
        return [getattr(vtk, name) for name in names if hasattr(vtk, name)]
    return [vtk.vtkRenderWindow]


def _surfaces(segments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the closed surface (RAS, mm) of each segment that has any voxel."""
    import slicer

    labelmap = labelmap_name()
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule()
    surfaces = {}
    for segment_id, segment in segments.items():
        copy = slicer.vtkSegment()  # of its own, because segments share their voxels
        copy.SetLabelValue(segment.GetLabelValue())
        copy.AddRepresentation(labelmap, segment.GetRepresentation(labelmap))
        if rule.Convert(copy) and copy.GetRepresentation(surface).GetNumberOfCells():
            surfaces[segment_id] = copy.GetRepresentation(surface)
    return surfaces


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


def _write_png(path: Path, *, window: Any) -> None:
    """Write what the window shows."""
    import vtk

    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetInputConnection(grabber.GetOutputPort())
    writer.SetFileName(str(path))
    writer.Write()


if __name__ == "__main__":
    import SimpleITK as sitk

    image = read_label_image(Path(sys.argv[1]), expected="Expected a labelmap of CovidSeg.")
    labelmap_kji = sitk.GetArrayFromImage(image)
    render_labelmap(Path(sys.argv[2]), labelmap_kji=labelmap_kji, geometry=Geometry.from_sitk(image))
