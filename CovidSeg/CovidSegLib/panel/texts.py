"""What the panel says in words: figures, progress, durations; without Qt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from ..errors import CovidSegError
from ..failures import explain
from ..results.followup import PastResult
from ..scenes.table import figures_of_region
from ..scenes.texts import look_up
from ..texts import as_text, translated
from .choices import Device
from .progress import Position

NOT_DEFINED = _("n/a")
#: Volumes that differ by less read the same.
SAME_ML = 0.05

#: Decimals of the table's columns, fewer than in the scene's table: to be read at a glance.
DIGITS = (0, 1, 1, 0, 0)


def no_result_text() -> str:
    """Return why something that needs a result cannot be done yet."""
    return _("Segment a CT first, or choose a result above.")


def headline_text(figures: Mapping[str, Any] | None) -> str:
    """Return the percentage of infection in one line."""
    if figures is None:
        return _("No results yet")
    poi = figures["poi_percent"]
    if poi is None:
        return _("No lung was found")
    return _("{poi} of the lungs are infected").format(poi=percent(poi))


def severity_text(figures: Mapping[str, Any] | None) -> str:
    """Return the severity class, and that of the worse lung."""
    if figures is None or figures["severity"]["class"] is None:
        return ""
    return _("Severity {overall} (scale CT-0 to CT-4); worse lung {worse}").format(
        overall=figures["severity"]["class"], worse=figures["severity"]["worse_lung_class"]
    )


def composition_text(figures: Mapping[str, Any] | None) -> str:
    """Return what the infection is made of."""
    if figures is None:
        return ""
    composition = figures["composition"]
    glass_ml, dense_ml = composition["ground_glass_ml"], composition["consolidation_ml"]
    whole_ml = glass_ml + dense_ml
    if not whole_ml:
        return ""
    return _("Infection: {glass} ml ground glass ({glass_share}), {dense} ml consolidation ({dense_share})").format(
        glass=f"{glass_ml:.0f}",
        glass_share=f"{100 * glass_ml / whole_ml:.0f}\u00a0%",
        dense=f"{dense_ml:.0f}",
        dense_share=f"{100 * dense_ml / whole_ml:.0f}\u00a0%",
    )


def comparison_text(figures: Mapping[str, Any] | None, *, before: Mapping[str, Any] | None) -> str:
    """Return how the figures differ from those before correction; empty if they do not."""
    if figures is None or before is None:
        return ""
    now_ml, then_ml = (report["regions"]["lungs"]["infection_ml"] for report in (figures, before))
    lung_ml, then_lung_ml = (report["regions"]["lungs"]["volume_ml"] for report in (figures, before))
    if abs(now_ml - then_ml) < SAME_ML and abs(lung_ml - then_lung_ml) < SAME_ML:
        return ""
    return _("Before correction: {then_poi}, {then_ml} ml infection; now {poi}, {ml} ml ({change} ml)").format(
        then_poi=percent(before["poi_percent"]),
        then_ml=f"{then_ml:.1f}",
        poi=percent(figures["poi_percent"]),
        ml=f"{now_ml:.1f}",
        change=f"{now_ml - then_ml:+z.1f}",
    )


def previous_text(previous: PastResult | None) -> str:
    """Return the figures that a result replaced; empty without any."""
    if previous is None:
        return ""
    ml = previous.figures["infection_ml"]
    return _("Previous result ({when}): {poi}, {ml} ml infection").format(
        when=previous.when.replace("T", " "),
        poi=percent(previous.figures["poi_percent"]),
        ml=NOT_DEFINED if ml is None else f"{ml:.1f}",
    )


def result_text(report: Mapping[str, Any]) -> str:
    """Return a case's result in a few words, for a line among others."""
    severity = (report.get("severity") or {}).get("class")
    words = [
        _("POI {poi}").format(poi=percent(report.get("poi_percent"))),
        _("severity not defined") if severity is None else str(severity),
    ]
    seconds = (report.get("runtime") or {}).get("seconds")
    return ", ".join(words if seconds is None else [*words, _("{seconds} s").format(seconds=f"{seconds:.1f}")])


def batch_message(said: object, *, controls: Mapping[str, str]) -> str:
    """Return a message of a batch, a text or an error, in the words of the panel instead of the command line's.

    Args:
        said: What the command line would print.
        controls: Option of the command line, as messages name it -> name of the panel's control.
    """
    names = {"--device cpu": Device.CPU.label(), **controls}
    too_little_memory = as_text(explain(MemoryError())).template

    def translate(source: str, template: str) -> str:
        if not source:  # no message of its own, such as the name of a file
            return template
        if template == too_little_memory:
            return _("not enough memory: close other programs or scenes, or choose the quality Fast")
        if "covidseg quantify" in template:
            return _("'{file}' was corrected after these figures were made: load it with its CT to see those of now")
        text = look_up(source, template)
        for option, control in names.items():
            text = text.replace(option, f"'{control}'")
        return text

    return str(translated(said.text if isinstance(said, CovidSegError) else said, translate=translate))


def table_rows(figures: Mapping[str, Any] | None) -> list[tuple[str, list[str]]]:
    """Return the table: the headers, then a row of texts per region."""
    headers = [_("Volume\n(ml)"), _("Infection\n(ml)"), _("Infected\n(%)"), _("Density\n(HU)"), _("Mass\n(g)")]
    rows = [("", headers)]
    if figures is None:
        return rows
    names = {"lungs": _("Both lungs"), "left_lung": _("Left lung"), "right_lung": _("Right lung")}
    for key, name in names.items():
        values = zip(figures_of_region(figures["regions"][key]), DIGITS, strict=True)
        rows.append((name, [NOT_DEFINED if value is None else f"{value:.{digits}f}" for value, digits in values]))
    return rows


def percent(value: float | None) -> str:
    """Return a percentage for people."""
    return NOT_DEFINED if value is None else f"{value:.1f} %"


def position_text(position: Position) -> str:
    """Return how far a run is, for people."""
    if position.stage != "network":
        return {
            "read": _("Reading the CT..."),
            "preprocess": _("Finding the chest..."),
            "back": _("Bringing the answer back onto the CT..."),
            "quantify": _("Measuring..."),
        }.get(position.stage, _("Working..."))
    text = _("Patch {done} of {total}").format(done=min(position.done + 1, position.total), total=position.total)
    if position.left_s is None:
        return text
    return _("{patch}, {left} left").format(patch=text, left=duration_text(position.left_s))


def on_a_bar(text: str) -> str:
    """Return a text that a progress bar shows as it is: Qt would put numbers for %p, %v and %m, and has no escape."""
    return text.replace("%", "%\N{WORD JOINER}")


def duration_text(seconds: float) -> str:
    """Return a rough duration for people, no more exact than such a figure is."""
    step = 1 if seconds < 10 else 5 if seconds < 60 else 10 if seconds < 300 else 60
    minutes, rest = divmod(max(1, step * round(seconds / step)), 60)
    if not minutes:
        return _("about {seconds} s").format(seconds=rest)
    if not rest:
        return _("about {minutes} min").format(minutes=minutes)
    return _("about {minutes} min {seconds} s").format(minutes=minutes, seconds=rest)
