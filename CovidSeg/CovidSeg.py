"""CovidSeg as 3D Slicer sees it: the module's card, its logic, and a self test.

The panel is not there yet. Until it is, the module is hidden in the module list, and is used from
Slicer's Python console (`CovidSegLogic().process(volumeNode)`) or by Scripts/covidseg_batch.py.
What CovidSeg does is in CovidSegLib; nothing heavy is imported here, so that Slicer starts as before.
"""

import slicer
from CovidSegLib.logic import CovidSegLogic
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

__all__ = ["CovidSeg", "CovidSegLogic", "CovidSegTest"]


class CovidSeg(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("CovidSeg")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Terminologies"]
        parent.contributors = ["CovidSeg contributors"]
        parent.hidden = True
        parent.helpText = _("""
<p>CovidSeg finds the left lung, the right lung and COVID-19 infection in a chest CT, and measures the
percentage of infection of each lung. The result is a segmentation that you can edit, and a table.</p>
<p><b>Not for clinical use.</b> This is research software: it is no medical device, and its figures must not
be used for diagnosis or treatment. Effusion, tumour and other pneumonia are not told apart from COVID-19.</p>
<p>Everything is computed on this computer; no image leaves it.</p>
""")
        parent.acknowledgementText = _("""
<p>The method is that of D. Mueller, I. Soto-Rey, F. Kramer: Robust chest CT image segmentation of COVID-19 lung
infection based on limited data. Informatics in Medicine Unlocked 25 (2021) 100681.
Please cite it if you use CovidSeg in your work.</p>
""")


class CovidSegTest(ScriptedLoadableModuleTest):
    """Self test in the application: the scene side of a run, with the truth in place of the network."""

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all tests, as Slicer's Reload and Test does."""
        self.setUp()
        self.test_phantom_becomes_segments_and_table()

    def test_phantom_becomes_segments_and_table(self):
        """Put a synthetic CT into the scene and check what is published for it."""
        from CovidSegLib.scene_selftest import add_phantom_volume, truth_engine

        phantom, volumeNode = add_phantom_volume(slicer.mrmlScene)
        outputs = CovidSegLogic(engine=truth_engine(phantom)).process(volumeNode)
        segmentation = outputs.segmentationNode.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
        self.assertEqual(ids, ["left_lung", "right_lung", "infection"])
        self.assertEqual(outputs.tableNode.GetNumberOfRows(), 3)
        self.assertAlmostEqual(outputs.report["poi_percent"], phantom.truth.poi_percent, places=6)
        again = CovidSegLogic().quantifySegmentation(outputs.segmentationNode, volumeNode=volumeNode)
        self.assertAlmostEqual(again.poi_percent, phantom.truth.poi_percent, places=6)
