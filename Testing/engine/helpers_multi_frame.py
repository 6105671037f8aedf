"""Tiny multi-frame DICOM files made of single slices: Enhanced CT by hand, Legacy Converted ones by highdicom."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom")

#: Functional groups, and what a single slice says in its data set instead.
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}


def group_of(**values: Any) -> Any:
    """Return a functional group: a sequence of one item."""
    item = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return pydicom.Sequence([item])


def write_enhanced(
    path: Path,
    slices: Sequence[Path],
    *,
    shared: Sequence[str] = (),
    edit: Callable[[Any], None] | None = None,
    **tags: Any,
) -> Path:
    """Write single slices as the frames of one Enhanced CT, in the order given; returns the path.

    `shared` are the functional groups stated once, `edit` changes the data set before it is written, `tags` are DICOM
    keywords of the data set.
    """
    sources = [pydicom.dcmread(file) for file in slices]
    ds = copy.deepcopy(sources[0])
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.EnhancedCTImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for keyword in ("BodyPartExamined", *(keyword for keywords in GROUPS.values() for keyword in keywords)):
        delattr(ds, keyword)
    frames = [pydicom.Dataset() for _source in sources]
    for number, (frame, source) in enumerate(zip(frames, sources, strict=True), start=1):
        for name, keywords in GROUPS.items():
            setattr(frame, name, group_of(**{keyword: source[keyword].value for keyword in keywords}))
        frame.FrameContentSequence = group_of(StackID="1", InStackPositionNumber=number)
        frame.CTImageFrameTypeSequence = group_of(FrameType=list(source.ImageType))
    common = pydicom.Dataset()
    chest = group_of(CodeValue="816094009", CodingSchemeDesignator="SCT", CodeMeaning="Chest")
    common.FrameAnatomySequence = group_of(AnatomicRegionSequence=chest)
    for name in shared:
        setattr(common, name, getattr(frames[0], name))
        for frame in frames:
            delattr(frame, name)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [common], frames
    ds.NumberOfFrames, ds.PixelData = len(frames), b"".join(source.PixelData for source in sources)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    if edit is not None:
        edit(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def write_legacy(path: Path, slices: Sequence[Path]) -> Path:
    """Convert single slices as archives do; returns the path."""
    highdicom = pytest.importorskip("highdicom")
    sources = [pydicom.dcmread(file) for file in slices]
    for source in sources:
        for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "Manufacturer", "AcquisitionNumber"):
            source.setdefault(keyword, None)
        source.setdefault("SliceThickness", 2)
        for keyword in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "PositionReferenceIndicator"):
            source.setdefault(keyword, "")
    uid = pydicom.uid.generate_uid
    converted = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        sources, series_instance_uid=uid(), series_number=5, sop_instance_uid=uid(), instance_number=1
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    converted.save_as(path)
    return path
