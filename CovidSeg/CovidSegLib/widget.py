"""The panel: it puts the sections together, and reacts to changes of the scene and of the user's choice.

The sections, in `panel`, react to the user; `runner` works in the background; `logic` and `scenes` read and change the
scene.
"""

from __future__ import annotations

from typing import Any

from .dependencies import SlicerInstaller, ensure_dependencies, load_packages
from .garbage import MainThreadGarbage
from .panel.batch import BatchSection
from .panel.consent import SlicerDialogs, consent_text
from .panel.correct import CorrectSection
from .panel.device import DeviceLine
from .panel.followup import FollowUpSection
from .panel.publish import Published
from .panel.results import ResultsSection
from .panel.run import SegmentSection
from .panel.uncertainty import UncertaintySteps
from .panel.views import SlicerViews
from .panel.workplace import PanelLogic, Parameters, Workplace, poll_timer, waiting
from .runner import Runner
from .scenes.adopt import adopt
from .scenes.display import bring_on_show
from .scenes.outputs import ct_of
from .scenes.uncertainty import is_map

#: Pause after which nodes that were added or removed are taken into account, all at once.
LOOK_AGAIN_MS = 50


class Panel:
    """CovidSeg's panel in the module area."""

    def __init__(self, ui: Any, *, logic: PanelLogic, on_show: bool = False) -> None:
        """Bring the widgets of CovidSeg.ui to life.

        Args:
            ui: The widgets by name.
            logic: Does what the scene needs.
            on_show: Whether the panel is on show already; a reloaded module is not entered again.
        """
        import qt

        garbage = MainThreadGarbage()
        runner, self._measurer = (
            Runner(make_timer=poll_timer, must_wait=self._scene_is_being_changed, garbage=garbage) for _ in range(2)
        )
        self.place = Workplace(
            ui=ui,
            logic=logic,
            runner=runner,
            dialogs=SlicerDialogs(),
            prepare=self._ensure_dependencies,
            refresh=self.refresh,
        )
        views = SlicerViews(logic.context)
        self.results = ResultsSection(self.place, measurer=self._measurer, views=views)
        self.segment = SegmentSection(
            self.place,
            changing=self.results.figures.ignoring_edits,
            figures_of=self.results.figures_of,
            published=self._published,
        )
        self.correct = CorrectSection(self.place)
        self.uncertainty = UncertaintySteps(self.place, measurer=self._measurer, figures=self.results.figures)
        self.follow_up = FollowUpSection(self.place, views=views, figures_on_show=self.results.figures_of)
        self.batch = BatchSection(self.place, views=views)
        self.device = DeviceLine(self.place)
        self._volume: Any = None
        self._segmentation: Any = None
        self._changing = False
        self._new_scene = True  # a loaded scene is shown as it was saved
        self._entered = on_show
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(LOOK_AGAIN_MS)
        self._timer.connect("timeout()", self.look_again)
        ui.followUpSection.connect("contentsCollapsed(bool)", self.refresh)
        self.place.figures_changed = self._figures_changed
        self.refresh()

    def set_parameters(self, parameters: Parameters | None) -> None:
        """Work with the scene that holds these parameters; with None, let go of the scene and stop the run."""
        self._timer.stop()
        self._volume = self._segmentation = None
        self._new_scene = True
        if parameters is None:
            self.segment.scene_closes()
            self.correct.scene_closes()
            self.uncertainty.scene_closes()
            self.follow_up.scene_closes()
        else:
            self.correct.scene_opened()
        self.place.parameters = parameters
        self.look_again()

    def changed(self, caller: Any = None, event: Any = None) -> None:
        """React to a choice of the user, or to the removal of a chosen node."""
        if self._changing:
            return
        if self._scene_is_being_changed():
            self._timer.start()
            return
        self._changing = True
        try:
            self._follow_choice()
        finally:
            self._changing = False
        self._new_scene = False
        self.results.figures.choose(self.place.segmentation())
        self.refresh()

    def refresh(self) -> None:
        """Bring all sections up to date with what can be done now."""
        for section in (self.segment, self.results, self.correct, self.uncertainty, self.batch):
            section.refresh()
        if not self.place.ui.followUpSection.collapsed:
            self.follow_up.refresh()
        if self._entered:
            self.device.refresh()

    def nodes_changed(self, caller: Any = None, event: Any = None) -> None:
        """Take into account, in a moment, that nodes were added or removed."""
        self._timer.start()

    def look_again(self) -> None:
        """Take into account what the scene holds now; choose its first CT if none is chosen."""
        parameters = self.place.parameters
        if parameters is not None and parameters.inputVolume is None and not self._scene_is_being_changed():
            offered = self._offered_volumes()
            if offered:
                parameters.inputVolume = offered[0]
        self.changed()

    def enter(self) -> None:
        """The panel comes on show."""
        self._entered = True
        self.correct.enter()
        self.device.look_again()
        self.look_again()

    def exit(self) -> None:
        """Another module comes on show."""
        self._entered = False
        self.correct.exit()

    def close(self) -> None:
        """Stop what runs and end the threads, before the panel is deleted."""
        self.set_parameters(None)
        self.correct.close()
        self.place.runner.close()
        self._measurer.close()

    def _figures_changed(self) -> None:
        """Let the follow-up look again in a moment: while Slicer saves a result, it may only seem to be edited."""
        if self.place.parameters is not None and not self.place.ui.followUpSection.collapsed:
            self._timer.start()

    def _scene_is_being_changed(self) -> bool:
        """Tell whether a scene is being read or closed: nodes may lack those they refer to, while events come."""
        return self.place.parameters is not None and bool(self.place.logic.context.scene.IsBatchProcessing())

    def _follow_choice(self) -> None:
        """Make CT and result belong together: the one that the user has just chosen decides."""
        parameters = self.place.parameters
        if parameters is None:
            return
        volume, segmentation = parameters.inputVolume, parameters.segmentation
        if segmentation is not None and ct_of(segmentation) is None:
            self._adopt(segmentation, volume=volume)
        if segmentation is not None and segmentation is not self._segmentation:
            its_volume = ct_of(segmentation)
            if its_volume is not None and its_volume is not volume:
                parameters.inputVolume = volume = its_volume
        elif volume is not self._volume and (segmentation is None or ct_of(segmentation) is not volume):
            parameters.segmentation = segmentation = self._last_result_of(volume)
        if segmentation is not None and segmentation is not self._segmentation and not self._new_scene:
            its_volume = ct_of(segmentation)
            bring_on_show(self.place.logic.context, segmentation_node=segmentation, volume_node=its_volume)
        self._volume, self._segmentation = volume, segmentation

    def _adopt(self, segmentation: Any, *, volume: Any) -> None:
        """Find the CT of a segmentation that was loaded from a file, such as one of a batch."""
        context = self.place.logic.context
        its_volume = adopt(context, segmentation_node=segmentation, chosen=volume, others=self._offered_volumes())
        if its_volume is not None and segmentation is self._segmentation:  # chosen before its CT was loaded
            self.results.figures.renew()

    def _offered_volumes(self) -> list[Any]:
        """Return the volumes that the list of CTs offers."""
        volumes = self.place.logic.context.nodes_of_class("vtkMRMLScalarVolumeNode")
        return list(filter(_is_offered, volumes))

    def _last_result_of(self, volume: Any) -> Any:
        """Return the newest segmentation that CovidSeg made of a CT, or None."""
        nodes = self.place.logic.context.nodes_of_class("vtkMRMLSegmentationNode")
        made = [node for node in nodes if volume is not None and ct_of(node) is volume]
        return made[-1] if made else None

    def _published(self, published: Published) -> None:
        self.results.figures.choose(published.segmentation)
        self.results.figures.renew(ct=published.ct)
        self.correct.segments_replaced()
        self.place.ui.resultsSection.collapsed = False
        self.device.remember(published.report.get("runtime") or {})
        self.nodes_changed()  # segments that were brought back may have to find their CT

    def _ensure_dependencies(self) -> None:
        """Ask to install the packages that are missing, and load all that the network needs."""
        ensure_dependencies(
            installer=SlicerInstaller(), ask=lambda missing: self.place.dialogs.confirm(consent_text(missing))
        )
        with waiting():
            load_packages()
        self.device.look_again()


def _is_offered(volume: Any) -> bool:
    """Tell whether the list of CTs offers a volume: no map, no labelmap, not hidden by another module."""
    is_ct = volume.GetClassName() == "vtkMRMLScalarVolumeNode" and not is_map(volume)
    return is_ct and not volume.GetHideFromEditors()
