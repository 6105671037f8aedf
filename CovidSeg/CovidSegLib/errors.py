"""The errors a user can meet; every message says what is wrong, where, and what to do."""

from __future__ import annotations

from .texts import Text, as_text
from .texts import text as _


class CovidSegError(Exception):
    """Base of all errors whose text is meant for people: every front end shows it, the panel in the user's language."""

    @property
    def text(self) -> Text:
        """The message as it was given, which can still be translated; `str(error)` is plain English."""
        return as_text(self.args[0] if self.args else "")


class InputError(CovidSegError):
    """The CT, segmentation or folder that was given cannot be used."""


class ModelError(CovidSegError):
    """The model bundle is missing, damaged, or does not fit this version."""


class DeviceError(CovidSegError):
    """The computer lacks what was asked for: a device, or memory."""


class Cancelled(CovidSegError):
    """The user stopped the run; nothing was changed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or _("Cancelled."))
