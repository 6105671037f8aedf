"""Errors of the stand-in host: something was asked for that Slicer does not have, or that the host does not know."""

from __future__ import annotations


class HostError(Exception):
    """The module under test did something that the host cannot answer, or that Slicer would not do."""


class HostAttributeError(HostError, AttributeError):
    """An unknown property, method or signal; `hasattr` is False for it, as in Slicer."""
