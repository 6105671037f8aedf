"""What each segment is, in SNOMED CT codes, in the form that Slicer stores and shows.

Only contexts that Slicer itself ships are named, so that a segmentation's terms resolve in any Slicer, with or without
this extension. Slicer's general anatomy list has no codes for lesions, so the infection's come from its DICOM master
list: inflammation, in the lung. It has no side, because one segment holds the infection of both lungs.

Source: Slicer, Modules/Loadable/Terminologies/Resources (both lists and the anatomic codes).
"""

from __future__ import annotations

from dataclasses import dataclass

GENERAL_ANATOMY_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
DICOM_MASTER_CONTEXT = "Segmentation category and type - DICOM master list"
ANATOMIC_CONTEXT = "Anatomic codes - DICOM master list"
#: The tag of a vtkSegment under which Slicer keeps the serialized terminology.
TERMINOLOGY_TAG = "TerminologyEntry"


@dataclass(frozen=True)
class Code:
    """A coded term: designator of the coding scheme, value, meaning."""

    scheme: str = ""
    value: str = ""
    meaning: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


NO_CODE = Code()
ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
ALTERED_STRUCTURE = Code("SCT", "49755003", "Morphologically Altered Structure")
LUNG = Code("SCT", "39607008", "Lung")
LEFT = Code("SCT", "7771000", "Left")
RIGHT = Code("SCT", "24028007", "Right")
INFLAMMATION = Code("SCT", "23583003", "Inflammation")


@dataclass(frozen=True)
class Terminology:
    """The terms of one segment, named as Slicer names them."""

    context: str
    category: Code
    type: Code
    type_modifier: Code = NO_CODE
    region: Code = NO_CODE
    region_modifier: Code = NO_CODE

    def serialized(self) -> str:
        """Return the text that Slicer keeps in the tag `TerminologyEntry`."""
        parts = (self.category, self.type, self.type_modifier, ANATOMIC_CONTEXT, self.region, self.region_modifier)
        return "~".join((self.context, *(str(part) for part in parts)))


TERMINOLOGY: dict[str, Terminology] = {
    "left_lung": Terminology(GENERAL_ANATOMY_CONTEXT, ANATOMICAL_STRUCTURE, LUNG, LEFT),
    "right_lung": Terminology(GENERAL_ANATOMY_CONTEXT, ANATOMICAL_STRUCTURE, LUNG, RIGHT),
    "infection": Terminology(DICOM_MASTER_CONTEXT, ALTERED_STRUCTURE, INFLAMMATION, region=LUNG),
}


def terminology_entry(segment_id: str) -> str:
    """Return the serialized terminology of a segment.

    Raises:
        KeyError: `segment_id` is none of `left_lung`, `right_lung`, `infection`.
    """
    return TERMINOLOGY[segment_id].serialized()


def terms_of(segment_id: str) -> str:
    """Return the terminology of a segment as a person finds it in Slicer's selector: category, type, side.

    Raises:
        KeyError: `segment_id` is none of `left_lung`, `right_lung`, `infection`.
    """
    terms = TERMINOLOGY[segment_id]
    return " > ".join(code.meaning for code in (terms.category, terms.type, terms.type_modifier) if code.meaning)


def segment_id_of(serialized: str) -> str | None:
    """Return which of our segments a serialized terminology denotes, or None if none.

    Only the codes are compared, so that entries of another context, in another language, or with older names of the
    categories are recognised, too.
    """
    parts = serialized.split("~")
    if len(parts) < 4:
        return None
    found = tuple(_code_value(part) for part in parts[2:4])
    for segment_id, terms in TERMINOLOGY.items():
        if found == (terms.type.value, terms.type_modifier.value):
            return segment_id
    return None


def _code_value(part: str) -> str:
    """Return the code value in ``scheme^value^meaning``."""
    fields = part.split("^")
    return fields[1] if len(fields) == 3 else ""
