"""A look at a DICOM file's elements without GDCM: whether all fit into the file, and what a single one says.

GDCM allocates what a length field claims: one damaged byte can ask for 4 GB per slice. A whole file passes here; so do
the deviations that GDCM puts up with (unknown VR, odd private sequences) as long as no claim exceeds the file.

Source: DICOM PS3.5 section 7 (data set encoding), PS3.5 A.4 (encapsulated pixel data), PS3.10 section 7 (file meta).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_SHORT_VRS = (
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"),
    *(b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
)
_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_IMPLICIT = b"1.2.840.10008.1.2"
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MAX_DEPTH = 32


@dataclass(frozen=True)
class _Encoding:
    explicit: bool
    order: Literal["little", "big"]


class _Element(NamedTuple):
    """Tag, bytes of the element's header, length of its value, and its VR (empty if none is written)."""

    tag: tuple[int, int]
    header: int
    length: int
    vr: bytes


class _TooLongError(ValueError):
    """An element claims more bytes than there are."""


def lengths_fit(path: Path) -> bool:
    """Tell whether every element's length stays within the file, down to the pixel data's fragments."""
    return _end_of(path.read_bytes()) is not None


def without_padding(path: Path) -> bytes | None:
    """Return a file's bytes up to the end of its pixel data if nothing but zeros follows them, else None.

    Tapes and some archives fill files up; GDCM takes the zeros for a broken element.
    """
    data = path.read_bytes()
    end = _end_of(data)
    return None if end is None or end == len(data) or any(data[end:]) else data[:end]


def _end_of(content: bytes) -> int | None:
    """Return where the data set ends, at the latest behind its pixel data; None if a length leads beyond the file."""
    data = memoryview(content)
    try:
        start, encoding = _after_meta(data)
        return len(data) if encoding is None else _walk(data, start, len(data), encoding=encoding, depth=0)
    except _TooLongError:
        return None


def text_of(path: Path, *, tag: tuple[int, int]) -> str:
    """Return the text of an element of the data set, outside of sequences; "" if there is none.

    Any file that starts as DICOM does will do, images and reports alike.

    Args:
        path: The file.
        tag: Group and element; the value should be ASCII, as UIDs are.

    Raises:
        OSError: The file cannot be read.
    """
    data = memoryview(path.read_bytes())
    try:
        at, encoding = _after_meta(data)
        while encoding is not None and at + 8 <= len(data):
            element = _element(data, at, encoding=encoding)
            at += element.header
            if element.tag > tag:  # elements come in ascending order
                return ""
            if element.tag == tag:
                return bytes(data[at : at + element.length]).strip(b"\0 ").decode("ascii", "replace")
            at = _after_value(data, at, len(data), element=element, encoding=encoding, depth=0)
    except _TooLongError:
        pass
    return ""


def _after_meta(data: memoryview) -> tuple[int, _Encoding | None]:
    """Return where the data set starts and how it is written; None where it cannot be looked into (deflated)."""
    if bytes(data[128:132]) != b"DICM":
        explicit = bytes(data[4:6]) in (*_LONG_VRS, *_SHORT_VRS)
        return 0, _Encoding(explicit=explicit, order="little")
    at, syntax = 132, _IMPLICIT
    meta = _Encoding(explicit=True, order="little")
    while at + 8 <= len(data) and bytes(data[at : at + 2]) == b"\x02\x00":
        tag, header, length, _ = _element(data, at, encoding=meta)
        if at + header + length > len(data):
            raise _TooLongError
        if tag == (0x0002, 0x0010):
            syntax = bytes(data[at + header : at + header + length]).rstrip(b"\0 ")
        at += header + length
    if syntax == _DEFLATED:
        return at, None
    return at, _Encoding(explicit=syntax != _IMPLICIT, order="big" if syntax == _BIG_ENDIAN else "little")


def _element(data: memoryview, at: int, *, encoding: _Encoding) -> _Element:
    """Return what stands before an element's value."""
    if at + 8 > len(data):
        raise _TooLongError

    def number(first: int, count: int) -> int:
        return int.from_bytes(data[first : first + count], encoding.order)

    tag = (number(at, 2), number(at + 2, 2))
    vr = bytes(data[at + 4 : at + 6])
    if not encoding.explicit or tag[0] == 0xFFFE:
        return _Element(tag, 8, number(at + 4, 4), b"")
    if vr in _SHORT_VRS:
        return _Element(tag, 8, number(at + 6, 2), vr)
    if vr in _LONG_VRS:
        return _Element(tag, 12, number(at + 8, 4), vr)
    return _Element(tag, 8, number(at + 4, 4), b"")  # GDCM reads an unknown VR as implicit


def _walk(data: memoryview, at: int, end: int, *, encoding: _Encoding, depth: int) -> int:
    """Step over elements until `end`, or until the delimiter of an item of undefined length; returns where."""
    while at + 8 <= end:
        element = _element(data, at, encoding=encoding)
        at += element.header
        if element.tag in (_ITEM_END, _SEQUENCE_END):
            return at
        at = _after_value(data, at, end, element=element, encoding=encoding, depth=depth)
        if element.tag == _PIXEL_DATA and depth == 0:
            return at
    return at


def _after_value(data: memoryview, at: int, end: int, *, element: _Element, encoding: _Encoding, depth: int) -> int:
    """Step over an element's value, which starts at `at`, and into sequences; returns where it ends."""
    if element.length == _UNDEFINED:
        # Inside UN of undefined length everything is implicit little endian (PS3.5 6.2.2 note 2).
        inner = _Encoding(explicit=False, order="little") if element.vr == b"UN" else encoding
        fragments = element.tag == _PIXEL_DATA
        return _walk_items(data, at, end, encoding=inner, depth=depth + 1, fragments=fragments)
    if element.length > end - at:
        raise _TooLongError
    if element.vr == b"SQ":
        _walk_items(data, at, at + element.length, encoding=encoding, depth=depth + 1, fragments=False)
    return at + element.length


def _walk_items(data: memoryview, at: int, end: int, *, encoding: _Encoding, depth: int, fragments: bool) -> int:
    """Step over the items of a sequence, or the fragments of compressed pixel data; returns where they end."""
    if depth > _MAX_DEPTH:
        raise _TooLongError
    while at + 8 <= end:
        tag, header, length, _ = _element(data, at, encoding=encoding)
        if tag == _SEQUENCE_END:
            return at + header
        if tag != _ITEM:
            return at  # not a sequence as the standard has it: leave it to GDCM
        at += header
        if length == _UNDEFINED:
            at = _walk(data, at, end, encoding=encoding, depth=depth)
        elif length > end - at:
            raise _TooLongError
        else:
            if not fragments:
                _walk(data, at, at + length, encoding=encoding, depth=depth)
            at += length
    if fragments:
        raise _TooLongError  # compressed pixels without their end: cut off between two fragments
    return at
