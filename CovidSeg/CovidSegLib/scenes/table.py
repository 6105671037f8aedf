"""The results as a table node: one row per region, for reading and for export to CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import NOT_AVAILABLE
from .texts import tr as _

#: Decimals of the columns after the name.
DIGITS = (1, 1, 2, 1, 1)


def column_meanings() -> tuple[tuple[str, str, str], ...]:
    """Return name, unit and meaning of each column."""
    return (
        ("region", "", _("Both lungs, or one lung of the patient")),
        ("volume_ml", "ml", _("Volume of the lung, infection included")),
        ("infection_ml", "ml", _("Volume of the infection")),
        ("poi_percent", "%", _("Percentage of infection: infection volume by lung volume")),
        ("mean_hu", "HU", _("Mean attenuation of the lung, infection included")),
        ("mass_g", "g", _("Lung mass, from (HU + 1000)/1000 g/ml")),
    )


def figures_of_region(region: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Return a report region's figures, one per column after the name (`column_meanings`); None if undefined."""
    return (
        region["volume_ml"],
        region["infection_ml"],
        region["poi_percent"],
        region["hu"]["mean"],
        region["mass_g"],
    )


def region_names() -> dict[str, str]:
    """Return what the regions of a report are called."""
    return {"lungs": _("both lungs"), "left_lung": _("left lung"), "right_lung": _("right lung")}


def results_table(regions: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a `vtkTable` of the `regions` of a report; what is undefined reads "n/a".

    Columns hold text, so that an undefined figure is shown as such and not as a number.

    Args:
        regions: The report's `regions`: lungs, left_lung, right_lung.
    """
    rows = [_row(name, regions[key]) for key, name in region_names().items()]
    names = [name for name, _unit, _meaning in column_meanings()]
    return text_table({name: [row[index] for row in rows] for index, name in enumerate(names)})


def text_table(columns: Mapping[str, Sequence[str]]) -> Any:
    """Return a `vtkTable` of text columns by name."""
    import vtk

    table = vtk.vtkTable()
    for name, values in columns.items():
        column = vtk.vtkStringArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(value)
        table.AddColumn(column)
    return table


def show_table(node: Any, *, table: Any) -> None:
    """Put a `results_table` into a table node, with units and column descriptions."""
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(False)
    node.SetUseFirstColumnAsRowHeader(True)
    for name, unit, description in column_meanings():
        if unit:
            node.SetColumnUnitLabel(name, unit)
        node.SetColumnDescription(name, description)


def _row(name: str, region: Mapping[str, Any]) -> list[str]:
    """Return the cells of one region."""
    figures = zip(figures_of_region(region), DIGITS, strict=True)
    return [name, *(NOT_AVAILABLE if value is None else f"{value:.{digits}f}" for value, digits in figures)]
