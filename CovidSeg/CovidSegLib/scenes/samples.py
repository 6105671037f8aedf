"""CTs to try CovidSeg with: a synthetic chest made on this computer, and Slicer's own chest CT.

Slicer's CT is downloaded by its Sample Data module, and only when the user asks for it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..scene import SceneContext
from .display import show_volume

if TYPE_CHECKING:
    from ..volume import CTVolume

CATEGORY = "CovidSeg"
PHANTOM_NAME = "CovidSegPhantom"
PHANTOM_SEED = 1
PHANTOM_INFECTION_PERCENT = 20.0

CT_CHEST_NAME = "CTChest"
#: Of CT-chest.nrrd, from the sources of Slicer's Sample Data module; part of the file's address, too.
CT_CHEST_SHA256 = "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"

TESTING_DATA_URL = "https://github.com/Slicer/SlicerTestingData/releases/download/"


@dataclass(frozen=True)
class PhantomMaker:
    """What Slicer calls when the user clicks on the phantom.

    Slicer recognises a sample that is registered again by its `repr`, which must not hold an address in memory.
    """

    context: Callable[[], SceneContext] = field(default=SceneContext.current, repr=False)

    def __call__(self, source: Any) -> list[Any]:
        """Return the new volume node, on show, in a list, as Slicer expects; `source` is what was registered."""
        context = self.context()
        node = add_phantom(context)
        show_volume(context, volume_node=node)
        return [node]


def register_samples(
    sample_data: Any, *, icons: Path, context: Callable[[], SceneContext] = SceneContext.current
) -> None:
    """Offer both CTs in Slicer's Sample Data module; nothing is made or downloaded now.

    Args:
        sample_data: Slicer's module `SampleData`.
        icons: Folder with a picture of each sample, named like it; without one Slicer shows the name alone.
        context: Returns the scene that the phantom goes into, at the time it is made.
    """
    # Slicer asks for addresses and file names even where a function makes the data: there are none.
    made = {"uris": [], "fileNames": [], "customDownloader": PhantomMaker(context)}
    downloaded = {
        "uris": f"{TESTING_DATA_URL}SHA256/{CT_CHEST_SHA256}",
        "fileNames": "CT-chest.nrrd",
        "checksums": f"SHA256:{CT_CHEST_SHA256}",
        "nodeNames": CT_CHEST_NAME,
    }
    for name, source in ((PHANTOM_NAME, made), (CT_CHEST_NAME, downloaded)):
        picture = icons / f"{name}.png"
        sample_data.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            thumbnailFileName=str(picture) if picture.is_file() else None,
            **source,
        )


def add_phantom(context: SceneContext) -> Any:
    """Return a new volume node with a synthetic chest CT, about a fifth of its lungs infected; takes seconds."""
    return add_ct_volume(context, ct=phantom_ct(), name=PHANTOM_NAME)


def phantom_ct() -> CTVolume:
    """Return the synthetic chest CT; it involves no scene, so any thread may call this."""
    from ..phantom import make_phantom

    return make_phantom(seed=PHANTOM_SEED, infection_percent=PHANTOM_INFECTION_PERCENT).ct


def add_ct_volume(context: SceneContext, *, ct: CTVolume, name: str) -> Any:
    """Return a new volume node with a copy of a CT's voxels, on its grid.

    Args:
        context: The scene.
        ct: Voxels in HU, and geometry.
        name: Of the node; a number is appended if it is taken.
    """
    import slicer

    node = context.add_node("vtkMRMLScalarVolumeNode", name=name)
    slicer.util.updateVolumeFromArray(node, ct.hu_kji)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ct.geometry.ijk_to_ras))
    node.CreateDefaultDisplayNodes()
    return node
