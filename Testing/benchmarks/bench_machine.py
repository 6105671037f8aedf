"""What both benchmarks share: the load of the machine, and how they write their report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: From this load by other programs on, times cannot be compared.
BUSY_LOAD = 0.5


def load_average() -> float:
    """Return the load average of the last minute, 0 on systems that have none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def give_report(document: dict[str, Any], *, text: str, folder: Path | None, name: str) -> None:
    """Print the report's Markdown; if a folder is given, write NAME.md and, with the records, NAME.json into it."""
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
