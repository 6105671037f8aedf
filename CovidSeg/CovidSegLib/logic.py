"""CovidSeg in a scene: volume node in, segmentation node and results table out.

The same class runs in the Slicer application, in `Slicer --python-script` and on slicer-core. There are three steps, so
that a worker thread can run the middle one:

1. `volumeFromNode` copies voxels and geometry out of the scene (main thread);
2. the engine segments the copy without touching the scene (any thread);
3. `publish` writes the result into the scene (main thread), whole or not at all.

`process` does all three. Nothing here opens a window; errors have texts that can be shown to the user.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import Cancelled, InputError
from .scene import SceneContext
from .scenes.edited import mark_computed
from .scenes.outputs import check_output, ct_of, output_segmentation, output_table, replace_segments
from .scenes.report import store_report
from .scenes.segmentation_file import load_segmentation, save_segmentation
from .scenes.segments import error_about, make_segments, read_masks, why_not_measured
from .scenes.table import results_table, show_table
from .scenes.texts import tr as _
from .scenes.uncertainty import map_image, put_map, remove_map
from .scenes.volume import check_volume, geometry_of, ijk_to_ras, volume_from_node
from .scenes.warnings import remember_voxels, segmented_voxels

if TYPE_CHECKING:
    from .bundle import Bundle
    from .pipeline import SegmentationResult
    from .progress import CancelledCallback, ProgressCallback
    from .quantify import Quantities
    from .volume import CTVolume


class Engine(Protocol):
    """How `CovidSegLogic` calls its engine, which is `pipeline.segment` unless another one is given."""

    def __call__(
        self,
        ct: CTVolume,
        *,
        mode: str,
        device: str,
        bundle: Bundle | Path | str | None,
        progress: ProgressCallback | None,
        cancelled: CancelledCallback | None,
        uncertainty: bool,
    ) -> SegmentationResult: ...


@dataclass(frozen=True)
class SceneOutputs:
    """What a run left in the scene.

    Attributes:
        segmentationNode: Segments `left_lung`, `right_lung` (whole lungs) and `infection`.
        tableNode: Volumes and percentage of infection per lung.
        report: The content of report.json.
        warnings: About these figures, for the user.
        uncertaintyNode: Volume of 0 (sure) to 100 per cent on the CT's grid; None if it was not asked for.
    """

    segmentationNode: Any
    tableNode: Any
    report: dict[str, Any]
    warnings: tuple[str, ...]
    uncertaintyNode: Any = None


class CovidSegLogic:
    """Segments CT volumes of a scene, and measures what the user made of the segments."""

    def __init__(self, *, context: SceneContext | None = None, engine: Engine | None = None) -> None:
        """Work on the scene of `context`; tests give an `engine` in place of the network.

        Without a context it is the application's scene, or a new one where there is no application.
        """
        self.context = context or SceneContext.current()
        self._engine = engine

    def process(
        self,
        volumeNode: Any,
        *,
        outputSegmentation: Any = None,
        mode: str = "accurate",
        device: str = "auto",
        bundle: Bundle | Path | str | None = None,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        uncertainty: bool = False,
    ) -> SceneOutputs:
        """Segment a CT and return the nodes made for it; to show them, call `scenes.display.show_result`.

        Args:
            volumeNode: `vtkMRMLScalarVolumeNode` of the scene, in HU.
            outputSegmentation: A segmentation node whose CovidSeg segments are replaced; a new one if None.
            mode: "accurate" or "fast".
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            bundle: Model bundle or its folder; the one shipped with CovidSeg if None.
            progress: Called with every step's progress.
            cancelled: Asked between patches; True stops the run.
            uncertainty: Whether to map, too, how sure the network is; the segments are the same.

        After any error the scene is as it was before.

        Raises:
            ValueError: The mode is unknown.
            InputError: The volume or the output node cannot be used.
            DependencyError: A package that the network needs is missing, or too old.
            ModelError: The bundle is missing or damaged.
            DeviceError: The device is absent, or memory runs out on every device.
            Cancelled: `cancelled` returned True.
        """
        check_volume(volumeNode)
        if not self.context.scene.IsNodePresent(volumeNode):
            text = _(
                "The CT is not in this scene. Give CovidSegLogic the CT's scene as context, or load the CT into it."
            )
            raise InputError(text)
        if outputSegmentation is not None:  # now, not after minutes of work
            check_output(self.context, node=outputSegmentation, volume_node=volumeNode)
        ct = self.volumeFromNode(volumeNode)
        result = self.engine(
            ct,
            mode=mode,
            device=device,
            bundle=bundle,
            progress=progress,
            cancelled=cancelled,
            uncertainty=uncertainty,
        )
        if cancelled is not None and cancelled():
            raise Cancelled()
        return self.publish(result, volumeNode=volumeNode, segmentationNode=outputSegmentation)

    @property
    def engine(self) -> Engine:
        """The function that segments; torch is imported only when it is called.

        Raises:
            DependencyError: A package that the network needs is missing, or too old.
        """
        if self._engine is None:
            from .dependencies import check_installed
            from .pipeline import segment

            check_installed()
            self._engine = segment
        return self._engine

    def volumeFromNode(self, volumeNode: Any) -> CTVolume:
        """Return a copy of a volume node, independent of the scene (see `scenes.volume.volume_from_node`)."""
        return volume_from_node(volumeNode)

    def publish(
        self,
        result: SegmentationResult,
        *,
        volumeNode: Any,
        segmentationNode: Any = None,
        voxels: str | None = None,
    ) -> SceneOutputs:
        """Write a result into the scene: segments, results table, map of uncertainty, places in the subject hierarchy.

        Args:
            result: What the engine returned for `volumeNode`.
            volumeNode: The CT that was segmented, unchanged.
            segmentationNode: Its CovidSeg segments and its map are replaced, other segments kept; a new node if None.
                A result without a map removes the old one, which would belong to other segments.
            voxels: The result's `scenes.warnings.segmented_voxels`, if that was computed beside the window.

        Raises:
            InputError: The volume was changed or removed meanwhile, or the node cannot take the segments.

        After any error the scene is as it was before.
        """
        self._check_unchanged(volumeNode, result=result)
        if segmentationNode is not None:
            check_output(self.context, node=segmentationNode, volume_node=volumeNode)
        segments = make_segments(result.labelmap, geometry=result.geometry, matrix=ijk_to_ras(volumeNode))
        report = result.report()
        table = results_table(report["regions"])
        image = None if result.uncertainty is None else map_image(result.uncertainty)
        voxels = segmented_voxels(result) if voxels is None else voxels
        with ExitStack() as undo:
            segmentation = output_segmentation(self.context, node=segmentationNode, volume_node=volumeNode, undo=undo)
            replace_segments(segmentation, segments=segments)
            table_node = output_table(self.context, segmentation_node=segmentation, volume_node=volumeNode, undo=undo)
            show_table(table_node, table=table)
            store_report(segmentation, report=report, warnings=result.warnings)
            remember_voxels(segmentation, voxels=voxels)
            for node in (segmentation, table_node):
                self.context.place_beside(node, neighbour=volumeNode)
            mark_computed(segmentation)
            map_node = None
            if image is None:  # last, as it is not undone
                remove_map(self.context, segmentation_node=segmentation)
            else:
                map_node = put_map(
                    self.context, image=image, segmentation_node=segmentation, volume_node=volumeNode, undo=undo
                )
            undo.pop_all()
        return SceneOutputs(segmentation, table_node, report, tuple(result.warnings), map_node)

    def quantifySegmentation(self, segmentationNode: Any, *, volumeNode: Any = None) -> Quantities:
        """Return the figures of the segments as they are now, on the volume's grid; the scene stays as it is.

        Segments are found by ID, else by terminology, so they may be renamed freely. A lung without a segment counts
        as absent; a deleted infection segment is an error, not 0 %.

        Args:
            segmentationNode: Holds the segments.
            volumeNode: The CT; the one that the segmentation refers to if None.

        Raises:
            InputError: No segmentation, its CT is not known, no lung segment, no infection segment, or an unusable
                volume.
        """
        from .intensity import to_hounsfield
        from .quantify import quantify

        _check_segmentation(segmentationNode)
        if volumeNode is None:
            volumeNode = ct_of(segmentationNode)
        problem = why_not_measured(segmentationNode, volume_node=volumeNode)
        if problem:
            raise error_about(segmentationNode, problem)
        ct = self.volumeFromNode(volumeNode)
        masks = read_masks(segmentationNode, volume_node=volumeNode)
        return quantify(
            to_hounsfield(ct).hu_kji,
            geometry=ct.geometry,
            left_kji=masks.left_kji,
            right_kji=masks.right_kji,
            infection_kji=masks.infection_kji,
        )

    def updateTable(self, tableNode: Any, *, quantities: Quantities) -> None:
        """Show new figures in a results table, for example after the segments were edited."""
        show_table(tableNode, table=results_table(quantities.to_dict()["regions"]))

    def saveSegmentation(self, segmentationNode: Any, *, path: str | Path) -> None:
        """Write a segmentation node to a .seg.nrrd file (see `scenes.segmentation_file.save_segmentation`)."""
        save_segmentation(segmentationNode, path=Path(path))

    def loadSegmentation(self, path: str | Path) -> Any:
        """Return a new node read from a .seg.nrrd file (see `scenes.segmentation_file.load_segmentation`)."""
        return load_segmentation(self.context, path=Path(path))

    def removeOutputs(self, outputs: SceneOutputs) -> None:
        """Remove the nodes of a run from the scene, with their subject-hierarchy items."""
        remove_map(self.context, segmentation_node=outputs.segmentationNode)
        self.context.remove_node(outputs.tableNode)
        self.context.remove_node(outputs.segmentationNode)

    def _check_unchanged(self, volume_node: Any, *, result: SegmentationResult) -> None:
        """Refuse a result if the volume was removed, or has another grid than the one that was segmented."""
        if volume_node is None or not self.context.scene.IsNodePresent(volume_node):
            raise InputError(_("The CT was removed from the scene while it was segmented; nothing was changed."))
        check_volume(volume_node)
        geometry, _warnings = geometry_of(volume_node)
        if result.labelmap.shape != geometry.shape_kji or not geometry.is_close_to(result.geometry):
            text = _(
                "The volume '{name}' got another grid while it was segmented; nothing was changed. Segment it again."
            )
            raise InputError(text.format(name=volume_node.GetName()))


def _check_segmentation(node: Any) -> None:
    """Refuse what is no segmentation node."""
    if node is None or not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(_("There is no segmentation to measure. Give the segmentation node of a CT."))
