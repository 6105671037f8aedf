"""Severity classes from the percentage of infection, modelled on MosMed CT-0 to CT-4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..texts import text as _

DEFINITION = _(
    "Percentage classes modelled on MosMed CT-0 to CT-4, from the unrounded percentage of infection (POI) "
    "of both lungs together: CT-0 below 0.1 %, CT-1 from 0.1 to 25 %, CT-2 above 25 to 50 %, "
    "CT-3 above 50 to 75 %, CT-4 above 75 %. The original is a visual grade by a radiologist, this is not. "
    "worse_lung_class is the class of the lung with the higher POI."
)

_CT0_BELOW_PERCENT = 0.1
_UPPER_BOUNDS_PERCENT = (("CT-1", 25.0), ("CT-2", 50.0), ("CT-3", 75.0))


def severity_class(poi_percent: float | None) -> str | None:
    """Return the class of a POI in percent, unrounded; None if it is undefined."""
    if poi_percent is None:
        return None
    if poi_percent < _CT0_BELOW_PERCENT:
        return "CT-0"
    return next((name for name, upper in _UPPER_BOUNDS_PERCENT if poi_percent <= upper), "CT-4")


@dataclass(frozen=True)
class Severity:
    """Class of both lungs together, and of the worse lung; None where the POI is undefined."""

    overall_class: str | None
    worse_lung_class: str | None

    @classmethod
    def of(cls, poi_percent: float | None, *, lung_poi_percent: Iterable[float | None]) -> Severity:
        """Return the classes of the total POI and of the greatest POI among the lungs."""
        defined = [poi for poi in lung_poi_percent if poi is not None]
        return cls(severity_class(poi_percent), severity_class(max(defined, default=None)))

    def to_dict(self) -> dict[str, str | None]:
        """Return the part `severity` of ``report.json``."""
        return {"class": self.overall_class, "worse_lung_class": self.worse_lung_class, "definition": DEFINITION}
