"""Paths of any letters for SimpleITK, also on Windows."""

from __future__ import annotations

import locale
import sys
from contextlib import suppress


def let_itk_open_any_path() -> None:
    """Have ITK open files whose paths hold letters beyond ASCII on Windows, where it reads paths in a code page.

    It holds for the whole process, so that only programs of their own call it: the Slicer application runs in UTF-8.
    Numbers keep their decimal point.

    Source: SimpleITK's FAQ, "How do I read an image with a special character in the filename?"
    """
    if sys.platform == "win32":
        with suppress(locale.Error):  # Windows 10 before 2018 has no such locale
            locale.setlocale(locale.LC_CTYPE, ".UTF-8")
