"""The entry points of the scripted module, over CovidSegLib; imports are light, so that Slicer starts fast."""

from pathlib import Path
from typing import Annotated

import slicer
import vtk
from CovidSegLib.logic import CovidSegLogic
from CovidSegLib.panel.choices import Device, Mode
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class CovidSeg(ScriptedLoadableModule):
    """The module's entry in Slicer: name, category, help."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("CovidSeg")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "SegmentEditor", "Terminologies"]
        parent.contributors = ["CovidSeg contributors"]
        parent.helpText = _("""
<p>CovidSeg finds the left lung, the right lung and COVID-19 infection in a chest CT, and measures the percentage of
infection of each lung. The result is a segmentation that you can edit, and a table.</p>
<p><b>Not for clinical use.</b> This is research software: it is no medical device, and its figures must not be used
for diagnosis or treatment. Effusion, tumour and other pneumonia are not told apart from COVID-19.
Everything is computed on this computer; no image leaves it.</p>
<p><a href="https://github.com/covidseg/covidseg/blob/main/docs/user-guide.md">User guide: a tutorial</a></p>""")
        parent.acknowledgementText = _("""
<p>The method is that of D. Mueller, I. Soto-Rey, F. Kramer: Robust chest CT image segmentation of COVID-19 lung
infection based on limited data. Informatics in Medicine Unlocked 25 (2021) 100681. Please cite it.</p>""")
        slicer.app.connect("startupCompleted()", self.registerSamples)

    def registerSamples(self):
        """Offer the phantom and Slicer's chest CT in the Sample Data module; nothing is generated or downloaded yet."""
        import SampleData
        from CovidSegLib.scenes.samples import register_samples

        register_samples(SampleData, icons=Path(self.resourcePath("Icons")))


@parameterNodeWrapper
class CovidSegParameterNode:
    """What the panel stores in the scene. A batch's folders are left out, as a scene may be passed on to others."""

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    mode: Mode = Mode.ACCURATE
    device: Device = Device.AUTO
    mapUncertainty: bool = False
    insideInfection: bool = False
    rangeEnabled: bool = False
    rangeFromHu: Annotated[int, WithinRange(-1024, 3071)] = -750
    rangeToHu: Annotated[int, WithinRange(-1024, 3071)] = 150
    islandMl: Annotated[float, WithinRange(0.01, 100.0)] = 0.1
    batchOverwrite: bool = False
    batchUncertainty: bool = False


class CovidSegWidget(ScriptedLoadableModuleWidget, slicer.util.VTKObservationMixin):
    """Connects Slicer's events with the panel, which is CovidSegLib.widget."""

    def __init__(self, parent=None):
        slicer.util.VTKObservationMixin.__init__(self)
        self._parameterNode = self._guiTag = None
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        """Create the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        from CovidSegLib.widget import Panel

        scene, uiWidget = slicer.mrmlScene, slicer.util.loadUI(self.resourcePath("UI/CovidSeg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui, self.logic = slicer.util.childWidgetVariables(uiWidget), CovidSegLogic()
        uiWidget.setMRMLScene(scene)
        self.panel = Panel(self.ui, logic=self.logic, on_show=getattr(self.parent, "isEntered", False))
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.initializeParameterNode)
        self.addObserver(scene, scene.EndImportEvent, self.initializeParameterNode)
        self.addObserver(scene, scene.NodeAddedEvent, self.panel.nodes_changed)
        self.addObserver(scene, scene.NodeRemovedEvent, self.panel.nodes_changed)
        self.initializeParameterNode()

    def cleanup(self):
        """Stop what runs, before the panel is deleted."""
        self.setParameterNode(None)
        self.removeObservers()
        self.panel.close()

    def enter(self):
        """Called when the user switches to the module."""
        self.initializeParameterNode()
        self.panel.enter()

    def exit(self):
        """Called when the user switches to another module."""
        self.panel.exit()

    def onSceneStartClose(self, caller, event):
        """Let go of the scene: a run is stopped, and its result is not published."""
        self.setParameterNode(None)

    def initializeParameterNode(self, caller=None, event=None):
        """Use the scene's parameter node; wrap it anew after a scene event, which may bring nodes that it names."""
        moduleLogic = ScriptedLoadableModuleLogic()
        moduleLogic.moduleName = "CovidSeg"
        node = moduleLogic.getParameterNode()
        if caller is not None or self._parameterNode is None or self._parameterNode.parameterNode is not node:
            self.setParameterNode(CovidSegParameterNode(node))

    def setParameterNode(self, parameterNode):
        """Bind the widgets to a parameter node, or with None to none; the mixin would keep a wrapper it observes."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.changed)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            bound = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
            bound.pop(None, None)  # not connectGui, which in some versions of Slicer returns no tag to disconnect by
            self._guiTag = parameterNode.connectParametersToGui(bound)
            self.addObserver(parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.changed)
        self.panel.set_parameters(parameterNode)


class CovidSegTest(ScriptedLoadableModuleTest):
    """Self test in the application: the scene side of a run, with a phantom's truth in place of the network."""

    def runTest(self):
        """Put a synthetic CT into an empty scene and check what is published for it."""
        from CovidSegLib.scenes.selftest import add_phantom_volume, truth_engine

        slicer.mrmlScene.Clear()
        phantom, volumeNode = add_phantom_volume(CovidSegLogic().context)
        outputs = CovidSegLogic(engine=truth_engine(phantom)).process(volumeNode)
        ids = list(outputs.segmentationNode.GetSegmentation().GetSegmentIDs())
        self.assertEqual(ids, ["left_lung", "right_lung", "infection"])
        self.assertEqual(outputs.tableNode.GetNumberOfRows(), 3)
        again = CovidSegLogic().quantifySegmentation(outputs.segmentationNode, volumeNode=volumeNode)
        self.assertAlmostEqual(again.poi_percent, phantom.truth.poi_percent, places=6)
