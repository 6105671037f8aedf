"""What the user chooses from lists: how thoroughly, and on what the network runs."""

from __future__ import annotations

from enum import Enum


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
