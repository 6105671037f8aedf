"""The report of the run that made a segmentation: kept in its node, and so saved with the scene."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..texts import Text, as_text
from .table import figures_of_region, region_names

#: Attribute of the segmentation node: the run's report.json, as text.
REPORT_ATTRIBUTE = "CovidSeg.report"

#: Attribute of the segmentation node: the report's warnings as `texts.Text`, so that they can be translated.
WARNINGS_ATTRIBUTE = "CovidSeg.warnings"


def store_report(segmentation_node: Any, *, report: Mapping[str, Any], warnings: Sequence[str]) -> None:
    """Keep a run's report in the segmentation that it made.

    Args:
        segmentation_node: Gets the attributes.
        report: The content of report.json.
        warnings: Those of the report; a `Text` among them can be translated later.

    Raises:
        ValueError: A figure is NaN or infinite; nothing is kept.
    """
    texts = {
        REPORT_ATTRIBUTE: json.dumps(report, allow_nan=False),
        WARNINGS_ATTRIBUTE: json.dumps([as_text(warning).to_dict() for warning in warnings]),
    }
    for name, text in texts.items():
        segmentation_node.SetAttribute(name, text)


def stored_report(segmentation_node: Any) -> dict[str, Any] | None:
    """Return the report of the run that made a segmentation; None if there is none, or it is damaged.

    Every figure that is read of it is there, be it None.
    """
    text = segmentation_node.GetAttribute(REPORT_ATTRIBUTE)
    try:
        report = json.loads(text) if text else None
        return report if report is not None and _is_complete(report) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_complete(report: Mapping[str, Any]) -> bool:
    """Tell whether the figures of a report are numbers; KeyError or TypeError if one is missing."""
    figures = [report["poi_percent"]]
    for key in region_names():
        figures += figures_of_region(report["regions"][key])
    figures += [report["composition"][name] for name in ("ground_glass_ml", "consolidation_ml")]
    classes = [report["severity"][name] for name in ("class", "worse_lung_class")]
    return all(isinstance(value, (int, float, type(None))) for value in figures) and all(
        isinstance(value, (str, type(None))) for value in classes
    )


def stored_warnings(segmentation_node: Any) -> Sequence[str]:
    """Return the warnings of `stored_report`, as texts that can be translated where these were kept with them."""
    warnings = (stored_report(segmentation_node) or {}).get("warnings", [])
    try:
        kept = json.loads(segmentation_node.GetAttribute(WARNINGS_ATTRIBUTE) or "[]")
        texts = [Text.from_dict(entry) for entry in kept]
    except (json.JSONDecodeError, KeyError, TypeError):
        return warnings
    return texts if list(map(str, texts)) == warnings else warnings  # else they are those of another report
