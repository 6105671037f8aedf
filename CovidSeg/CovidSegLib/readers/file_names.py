"""Names of files and folders that Linux, macOS and Windows all accept."""

from __future__ import annotations

import re
from pathlib import Path

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_WINDOWS_DEVICE = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?$", re.IGNORECASE)
# Leaves room for "-123" and for the hidden ".<case>.partial-<token>" within the usual 255 bytes.
_MAX_BYTES = 180


def is_encodable(path: Path) -> bool:
    """Tell whether a path's letters have a known encoding: SimpleITK ends the whole process over one with others."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def safe_name(raw: str) -> str:
    """Return `raw` as a name of a file or folder; spaces and accents stay; "" if nothing of it does."""
    name = _FORBIDDEN.sub("_", raw).rstrip(" .").lstrip(" ")
    if name.startswith("."):
        name = "_" + name[1:]
    while len(name.encode()) > _MAX_BYTES:
        name = name[:-1].rstrip(" .")
    if _WINDOWS_DEVICE.match(name):
        head, dot, tail = name.partition(".")
        return f"{head}_{dot}{tail}"
    return name
