"""Segmentation nodes to and from .seg.nrrd, through Slicer's own storage node."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..cases.folder import new_file
from ..errors import InputError
from ..scene import SceneContext
from .texts import tr as _

FILE_SUFFIX = ".seg.nrrd"


def save_segmentation(node: Any, *, path: Path) -> None:
    """Write segments, names, colours and terminology; the file appears whole or not at all.

    The node's own storage settings stay as they are.

    Raises:
        InputError: The name does not end in .seg.nrrd, the segments are surfaces, or the file cannot be written.
        OSError: An existing file cannot be replaced.
    """
    import slicer

    if not path.name.lower().endswith(FILE_SUFFIX):
        text = _("{path}: a segmentation is saved as {suffix}; choose a name that ends so.")
        raise InputError(text.format(path=path, suffix=FILE_SUFFIX))
    if not path.parent.is_dir() or path.is_dir():
        text = _("{path}: cannot be written, because the folder is missing or a folder has this name.")
        raise InputError(text.format(path=path))
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and not segmentation.IsSourceRepresentationImageData():
        text = _(
            "The segmentation '{name}' holds surfaces, not voxels. Make the binary labelmap its source representation "
            "in the Segmentations module, and save it again."
        )
        raise InputError(text.format(name=node.GetName()))
    storage = slicer.vtkMRMLSegmentationStorageNode()
    with new_file(path) as partial:
        storage.SetFileName(str(partial))
        if not storage.WriteData(node) or not partial.is_file():
            text = _("{path}: cannot be written. Is there room, and may you write into the folder?")
            raise InputError(text.format(path=path))


def load_segmentation(context: SceneContext, *, path: Path) -> Any:
    """Return a new segmentation node read from a .seg.nrrd file, ours or Slicer's.

    Raises:
        InputError: There is no such file, or it is no segmentation; no node is left in the scene.
    """
    if not path.is_file():
        raise InputError(_("{path}: there is no such file.").format(path=path))
    _check_readable(path)
    name = path.name[: -len(FILE_SUFFIX)] if path.name.lower().endswith(FILE_SUFFIX) else path.stem
    with ExitStack() as undo:
        node = context.add_node("vtkMRMLSegmentationNode", name=name)
        undo.callback(context.remove_node, node)
        node.AddDefaultStorageNode(str(path))
        storage = node.GetStorageNode()
        if storage is None or not storage.ReadData(node) or node.GetSegmentation().GetNumberOfSegments() == 0:
            text = _("{path}: cannot be read as a segmentation ({suffix}).")
            raise InputError(text.format(path=path, suffix=FILE_SUFFIX))
        node.CreateDefaultDisplayNodes()
        undo.pop_all()
    return node


def _check_readable(path: Path) -> None:
    """Read a file with SimpleITK first, which raises if it is damaged; Slicer's reader would end the whole program.

    Raises:
        InputError: The file is damaged, cut short, or no image.
    """
    import SimpleITK as sitk

    from ..readers.sitk_quiet import itk_reason, quiet_itk

    try:
        with quiet_itk():
            sitk.ReadImage(str(path))
    except RuntimeError as error:
        text = _(
            "{path}: cannot be read as a segmentation; it is damaged, cut short, or no {suffix} file "
            "({reason}). Copy or save it again."
        )
        raise InputError(text.format(path=path, suffix=FILE_SUFFIX, reason=itk_reason(error))) from error
