"""What reports share: what ran where and when, tables as text and in Markdown, and JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from CovidSegLib.patch_predictor import precision_on

from .whole_files import write_whole

if TYPE_CHECKING:
    from CovidSegLib.bundle import Bundle


def provenance(bundle: Bundle, *, command: Sequence[str], mode: str) -> dict[str, Any]:
    """Return which bundle was measured in which mode, by which command, when and where."""
    return {
        "bundle": bundle.to_dict(),
        "mode": mode,
        "command": shlex.join(command),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{describe_machine()}, {precision_on('cpu', quantized=bundle.is_quantized)} on the CPU",
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


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal; every column is as wide as its longest cell."""
    lines = [header, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown. A bar inside a cell would start another cell, so it becomes a slash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON; JSON has no NaN and no infinity, so these become null."""
    text = json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"
    write_whole(path, text.encode("utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
