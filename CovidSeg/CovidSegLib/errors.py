"""The errors a user can meet; every message says what is wrong, where, and what to do."""

from __future__ import annotations


class CovidSegError(Exception):
    """Base of all errors whose text is meant for people: shown unchanged by every front end."""


class InputError(CovidSegError):
    """The CT, segmentation or folder that was given cannot be used."""


class ModelError(CovidSegError):
    """The model bundle is missing, damaged, or does not fit this version."""


class DeviceError(CovidSegError):
    """The computer lacks what was asked for: a device, or memory."""


class Cancelled(CovidSegError):
    """The user stopped the run; nothing was changed."""

    def __init__(self, message: str = "Cancelled.") -> None:
        super().__init__(message)
