"""Where the MRML scene and the module logics come from: the Slicer application or slicer-core.

The rest of the MRML layer takes a `SceneContext` and never asks which of the two it runs in.
In the application scene and logics exist already. On the slicer-core wheel (real MRML, no Qt)
`SceneContext.headless` builds them; two logics look superfluous there and are not: without
"Colors" every file that is read prints an error, without the data module's logic the display
and storage nodes of a removed volume stay, and its voxels with them.

Nothing here uses `slicer.app`, `slicer.util.load*`/`save*`, or pop-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import CovidSegError
from .resources import resource_path
from .scene_texts import tr as _

#: Name of the list in CovidSeg.term.json.
TERMINOLOGY_CONTEXT = "CovidSeg - lungs and infection"

#: Module name -> class of its logic, in the order in which they are made.
HEADLESS_LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
}


class SceneContext:
    """An MRML scene with the module logics that work on it.

    Attributes:
        scene: The `vtkMRMLScene`.
    """

    def __init__(self, scene: Any, *, logic: Callable[[str], Any], keep: tuple[Any, ...] = ()) -> None:
        """Hold `scene`; `logic` returns a module's logic by name; `keep` is kept alive with the context."""
        self.scene = scene
        self._logic = logic
        self._keep = keep
        self._load_terminologies()

    @classmethod
    def current(cls) -> SceneContext:
        """Return the application's scene in Slicer, a new scene of its own elsewhere.

        Raises:
            CovidSegError: Neither Slicer nor slicer-core is there.
        """
        slicer = _import_slicer()
        inside_application = getattr(slicer, "mrmlScene", None) is not None and hasattr(slicer, "modules")
        return cls.application() if inside_application else cls.headless()

    @classmethod
    def application(cls) -> SceneContext:
        """Return the scene and logics of the running Slicer application."""
        slicer = _import_slicer()
        return cls(slicer.mrmlScene, logic=lambda name: getattr(slicer.modules, name.lower()).logic())

    @classmethod
    def headless(cls) -> SceneContext:
        """Return a new scene with the logics of slicer-core, as the application would have set them up.

        Raises:
            CovidSegError: slicer-core is not installed.
        """
        slicer = _import_slicer()
        import vtk

        scene = slicer.vtkMRMLScene()
        application = slicer.vtkSlicerApplicationLogic()
        application.SetMRMLScene(scene)
        application.SetSliceLogics(vtk.vtkCollection())
        application.SetViewLogics(vtk.vtkCollection())
        logics = {}
        for name, class_name in HEADLESS_LOGICS.items():
            logic = getattr(slicer, class_name)()
            logic.SetMRMLApplicationLogic(application)
            if name != "Terminologies":  # with a scene it looks for lists that only the application ships
                logic.SetMRMLScene(scene)
            if name == "Colors":
                application.SetColorLogic(logic)
            application.SetModuleLogic(name, logic)
            logics[name] = logic
        return cls(scene, logic=logics.__getitem__, keep=(application, *logics.values()))

    def logic(self, module: str) -> Any:
        """Return the logic of a module, by the module's name in `HEADLESS_LOGICS`."""
        return self._logic(module)

    def add_node(self, class_name: str, *, name: str) -> Any:
        """Return a new node in the scene; a number is appended to a name that is taken."""
        return self.scene.AddNewNodeByClass(class_name, self.scene.GenerateUniqueName(name))

    def remove_node(self, node: Any) -> None:
        """Remove a node with its display and storage nodes and its subject-hierarchy item; absent is fine."""
        if node is None or not self.scene.IsNodePresent(node):
            return
        hierarchy = self.subject_hierarchy()
        item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
        if item:  # outside the application nobody else removes it, and it would keep the node alive
            hierarchy.RemoveItem(item, False, False)
        self.scene.RemoveNode(node)

    def subject_hierarchy(self) -> Any:
        """Return the scene's subject-hierarchy node."""
        return _import_slicer().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)

    def place_beside(self, node: Any, *, neighbour: Any) -> None:
        """Put a node's subject-hierarchy item under the parent (study, folder) of another's.

        An item that somebody put into a folder stays there. In the application the items exist
        already; elsewhere they are made.
        """
        hierarchy = self.subject_hierarchy()
        root = hierarchy.GetSceneItemID()
        beside = hierarchy.GetItemByDataNode(neighbour) or hierarchy.CreateItem(root, neighbour)
        parent = hierarchy.GetItemParent(beside)
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
        if hierarchy.GetItemParent(item) == root:
            hierarchy.SetItemParent(item, parent)

    def _load_terminologies(self) -> None:
        """Make CovidSeg's codes known, so that segments show names also where Slicer's lists are absent."""
        logic = self.logic("Terminologies")
        if logic.IsTerminologyContextLoaded(TERMINOLOGY_CONTEXT):
            return
        for path in sorted(resource_path("Terminology").glob("*.term.json")):
            if not logic.LoadContextFromFile(str(path)):
                text = _("{path}: Slicer cannot read this terminology. Install CovidSeg again.")
                raise CovidSegError(text.format(path=path))


def _import_slicer() -> Any:
    """Return the `slicer` package, of the application or of the wheel."""
    try:
        import slicer
    except ImportError as error:
        raise CovidSegError(
            _(
                "This part of CovidSeg needs 3D Slicer or its library. Run it inside Slicer, "
                "or install the library with: pip install 'covidseg[slicer]'"
            )
        ) from error
    return slicer
