"""Choices in the panel's lists: mode, device, CT."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..scene import SceneContext
from ..scenes.uncertainty import is_map


class Mode(Enum):
    """Modes of `pipeline.segment`."""

    ACCURATE = "accurate"
    FAST = "fast"

    def label(self) -> str:
        """Return the entry of the list."""
        from slicer.i18n import tr as _

        return {Mode.ACCURATE: _("Accurate"), Mode.FAST: _("Fast")}[self]


class Device(Enum):
    """Devices of `device.resolve_device`."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self) -> str:
        """Return the entry of the list."""
        from slicer.i18n import tr as _

        return {
            Device.AUTO: _("Automatic"),
            Device.CPU: _("Processor (CPU)"),
            Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS, untested)"),
        }[self]


def offer_no_maps(selector: Any, *, context: SceneContext) -> None:
    """Hide maps of uncertainty, which are volumes like CTs, from a list of CTs (`qMRMLNodeComboBox`)."""
    maps = [node.GetID() for node in context.nodes_of_class("vtkMRMLScalarVolumeNode") if is_map(node)]
    model = selector.sortFilterProxyModel()
    if list(model.hiddenNodeIDs) != maps:
        model.hiddenNodeIDs = maps
