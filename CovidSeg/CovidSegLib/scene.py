"""Where the MRML scene and the module logics come from: the Slicer application or slicer-core.

The rest of the MRML layer takes a `SceneContext` and never asks which of the two it runs in. In the application, scene
and logics exist already. On the slicer-core wheel (real MRML, no Qt) `SceneContext.headless` builds them. Two of its
logics look superfluous but are not: without "Colors" every file that is read prints an error, and without "Data" the
display and storage nodes of a removed volume stay in memory, and its voxels with them.

Nothing here uses `slicer.app`, `slicer.util.load*`/`save*`, or pop-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import CovidSegError
from .resources import resource_path
from .scenes.texts import tr as _

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
            if name != "Terminologies":  # with a scene it would look for lists that only the application ships
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
        """Remove a node, with its subject-hierarchy item, if it is in the scene; None is accepted."""
        if node is None or not self.scene.IsNodePresent(node):
            return
        hierarchy = self.subject_hierarchy()
        item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
        if item:  # outside the application nothing else removes it, and it would keep the node alive
            hierarchy.RemoveItem(item, False, False)
        self.scene.RemoveNode(node)

    def nodes_of_class(self, class_name: str) -> list[Any]:
        """Return the scene's nodes of a class and of classes derived from it, in the scene's order."""
        count = self.scene.GetNumberOfNodesByClass(class_name)
        return [self.scene.GetNthNodeByClass(index, class_name) for index in range(count)]

    def subject_hierarchy(self) -> Any:
        """Return the scene's subject-hierarchy node."""
        return _import_slicer().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)

    def place_beside(self, node: Any, *, neighbour: Any) -> None:
        """Put a node's subject-hierarchy item under the parent (study, folder) of another's.

        An item that the user moved into a folder stays there. In the application the items exist already; elsewhere
        they are created.
        """
        hierarchy = self.subject_hierarchy()
        root = hierarchy.GetSceneItemID()
        beside = hierarchy.GetItemByDataNode(neighbour) or hierarchy.CreateItem(root, neighbour)
        parent = hierarchy.GetItemParent(beside)
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
        if hierarchy.GetItemParent(item) == root:
            hierarchy.SetItemParent(item, parent)

    def _load_terminologies(self) -> None:
        """Load CovidSeg's terminology, so that its segments have names also where Slicer's lists are missing."""
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
