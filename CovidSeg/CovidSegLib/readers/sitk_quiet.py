"""Calling SimpleITK without its chatter: our own messages say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Silence ITK's warnings on stderr for a block, and restore the host's setting."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def itk_reason(error: Exception) -> str:
    """Return the last line of an ITK error, its cause, without addresses and source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    for lead in ("ITK ERROR:", "sitk::ERROR:", "Reason:"):
        text = text.split(lead, 1)[-1].strip()
    if "(0x" in text and "): " in text:  # ClassName(0x55...): reason
        text = text.split("): ", 1)[1]
    return text[:200]
