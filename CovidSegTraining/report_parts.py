"""What reports of measurements share: what ran where and when, and tables in Markdown."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from CovidSegLib.bundle import Bundle


def provenance(bundle: Bundle, *, command: Sequence[str], mode: str) -> dict[str, Any]:
    """Return which bundle was measured in which mode, by which command, when and where."""
    return {
        "bundle": bundle.to_dict(),
        "mode": mode,
        "command": shlex.join(command),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
    }


def describe_machine() -> str:
    """Return processor, cores and threads in one line."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table; a bar in a cell, which would begin another one, becomes a slash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
