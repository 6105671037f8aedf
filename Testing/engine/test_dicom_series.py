"""DICOM series: which one is taken, how a user chooses another, what is warned of."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.volume import list_series, read_ct
from helpers_ct_files import edit_slice, tiny_hu, write_series

pydicom = pytest.importorskip("pydicom")

# --- several series ------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Give a study: scout, thin lung and thick soft-tissue axial series, a coronal reformat, and a PET."""
    folder = tmp_path / "study"
    small = {"shape_kji": (12, 12, 14)}
    write_series(
        folder / "1", tiny_hu(), number=1, uid="1.1", SeriesDescription="Scout", ImageType=["A", "B", "LOCALIZER"]
    )
    write_series(folder / "2", tiny_hu(**small, seed=2), number=2, uid="1.2", SeriesDescription="Lung 2.0 B70f")
    write_series(folder / "3", tiny_hu(seed=3), number=3, uid="1.3", SeriesDescription="Soft 2.0 B30f")
    write_series(
        folder / "4",
        tiny_hu(shape_kji=(30, 12, 14)),
        row_lps=(1.0, 0.0, 0.0),
        column_lps=(0.0, 0.0, -1.0),
        number=4,
        uid="1.4",
        SeriesDescription="Cor",
    )
    write_series(folder / "5", tiny_hu(shape_kji=(40, 12, 14)), number=5, uid="1.5", Modality="PT")
    write_series(
        folder / "6",
        tiny_hu(shape_kji=(41, 12, 14)),
        number=6,
        uid="1.6",
        BodyPartExamined="HEAD",
        SeriesDescription="Head",
    )
    return folder


def test_axial_chest_series_with_most_slices_is_taken_and_named(study: Path) -> None:
    ct = read_ct(study)
    assert ct.series == "2: Lung 2.0 B70f"
    assert len(ct.hu_kji) == 12
    (warning,) = ct.warnings
    assert warning.startswith("6 series found; series 2: Lung 2.0 B70f (12 axial slices) was taken.")


@pytest.mark.parametrize(
    ("wanted", "series"),
    [
        ("3", "3: Soft 2.0 B30f"),
        ("1.3", "3: Soft 2.0 B30f"),
        ("b30F", "3: Soft 2.0 B30f"),
        ("Cor", "4: Cor"),
        ("head", "6: Head"),
    ],
)
def test_user_chooses_by_number_uid_or_description(study: Path, wanted: str, series: str) -> None:
    ct = read_ct(study, series=wanted)
    assert ct.series == series
    assert ct.warnings == ()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("99", "no series '99'. Choose among: 2: Lung"),
        ("2.0", "fits several"),
        ("5", "PT, not CT"),
        ("", "no series ''"),
    ],
)
def test_unusable_choice_is_refused_with_the_list(study: Path, wanted: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ct(study, series=wanted)


def test_message_names_twenty_of_many_series(tmp_path: Path) -> None:
    for number, file in enumerate(write_series(tmp_path, tiny_hu(shape_kji=(25, 12, 14))), start=1):
        edit_slice(file, SeriesInstanceUID=f"1.2.{number}", SeriesNumber=number)  # as some anonymisers do
    with pytest.raises(InputError, match=r"no axial chest CT series found.*; and 5 more\. Give") as caught:
        read_ct(tmp_path)
    assert str(caught.value).count("fewer than 8 slices") == 20


def test_list_of_series_says_why_some_are_not_taken_and_holds_no_identity(study: Path) -> None:
    infos = list_series(study)
    assert [info.number for info in infos][:2] == [2, 3]
    assert {info.number: info.reason for info in infos} == {
        2: "", 3: "", 6: "", 1: "localizer", 4: "not axial", 5: "PT, not CT",
    }  # fmt: skip
    assert "ecret" not in repr(infos).lower()
    assert "secret" not in repr(read_ct(study)).lower()


@pytest.mark.parametrize(
    ("row", "column", "plane"),
    [
        ((1, 0, 0), (0, 1, 0), "axial"),
        ((1, 0, 0), (0, np.cos(np.deg2rad(30)), np.sin(np.deg2rad(30))), "axial"),
        ((1, 0, 0), (0, np.cos(np.deg2rad(40)), np.sin(np.deg2rad(40))), "oblique"),
        ((1, 0, 0), (0, 0, -1), "coronal"),
        ((0, 1, 0), (0, 0, -1), "sagittal"),
    ],
)
def test_plane_of_a_series_is_the_nearest_of_the_body(tmp_path: Path, row: Any, column: Any, plane: str) -> None:
    write_series(tmp_path, tiny_hu(), row_lps=row, column_lps=tuple(round(float(v), 6) for v in column))
    (info,) = list_series(tmp_path)
    assert (info.plane, info.usable) == (plane, plane == "axial")


@pytest.mark.parametrize(
    ("shape_ji", "column"),
    [((20, 20), (0, 0, -1.0)), ((12, 14), (0, 0, -1.0)), ((12, 20), (0, 1.0, 0)), ((20, 14), (0, 1.0, 0))],
)
@pytest.mark.parametrize("series", [None, "3"])
def test_localizer_under_the_same_uid_is_left_out_with_a_warning(
    tmp_path: Path, shape_ji: tuple[int, int], column: tuple[float, float, float], series: str | None
) -> None:
    write_series(tmp_path, tiny_hu(), uid="1.9")
    scout = tiny_hu(shape_kji=(1, *shape_ji))
    write_series(tmp_path, scout, uid="1.9", prefix="SC", row_lps=(1.0, 0, 0), column_lps=column)
    ct = read_ct(tmp_path, series=series)
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.warnings == ("1 image(s) of the series have another size or orientation and were left out.",)


@pytest.mark.parametrize(
    "tags",
    [
        *({"SeriesDescription": f"Chest {word}"} for word in ("MIP 10mm", "thin_MIP", "MinIP", "Rendered", "3D")),
        {"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]},
    ],
)
def test_projections_are_taken_last(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_series(tmp_path / "a", tiny_hu(shape_kji=(12, 12, 14)), number=1, **tags)
    write_series(tmp_path / "b", tiny_hu(), number=2)
    assert read_ct(tmp_path).series == "2: Chest 2.0 soft"


@pytest.mark.parametrize("word", ["Chest", "THORAX", "Lunge", "poumon", "Tórax", "Angio pulmonaire"])
def test_series_of_the_chest_is_known_by_its_description_in_several_languages(tmp_path: Path, word: str) -> None:
    tags = {"SpecificCharacterSet": "ISO_IR 100", "BodyPartExamined": ""}
    write_series(tmp_path / "a", tiny_hu(shape_kji=(12, 12, 14)), number=1, **tags | {"SeriesDescription": "Axial"})
    write_series(tmp_path / "b", tiny_hu(), number=2, **tags | {"SeriesDescription": word})
    assert read_ct(tmp_path).series == f"2: {word}"


def test_description_in_full_is_chosen_before_those_that_hold_it(tmp_path: Path) -> None:
    write_series(tmp_path / "a", tiny_hu(), number=1, SeriesDescription="Lung")
    write_series(tmp_path / "b", tiny_hu(), number=2, SeriesDescription="Lung 2.0")
    assert read_ct(tmp_path, series="lung").series == "1: Lung"
    with pytest.raises(InputError, match="fits several"):
        read_ct(tmp_path, series="lun")


def test_one_slice_in_inverted_grey_makes_a_series_unusable(tmp_path: Path) -> None:
    edit_slice(write_series(tmp_path, tiny_hu())[5], PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(InputError, match=r"inverted grey values \(MONOCHROME1\)"):
        read_ct(tmp_path)


# --- warnings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "warning"),
    [
        ({"ContrastBolusAgent": "Ultravist 300"}, "Contrast agent"),
        ({"ReconstructionDiameter": 180}, r"Narrow field of view \(180 mm\)"),
        ({"LossyImageCompression": "01"}, "compressed with loss"),
    ],
)
def test_contrast_small_field_and_lossy_images_give_a_warning(
    tmp_path: Path, tags: dict[str, Any], warning: str
) -> None:
    write_series(tmp_path, tiny_hu(), **tags)
    (found,) = read_ct(tmp_path).warnings
    assert re.search(warning, found)


@pytest.mark.parametrize(("agent", "diameter_mm"), [("", 380), ("NO", 250), ("None", 0), ("n", None), ("0", 380)])
def test_no_contrast_and_large_or_unknown_field_give_none(
    tmp_path: Path, agent: str, diameter_mm: float | None
) -> None:
    write_series(tmp_path, tiny_hu(), ContrastBolusAgent=agent, ReconstructionDiameter=380)
    for file in tmp_path.iterdir():
        edit_slice(file, ReconstructionDiameter=diameter_mm)
    assert read_ct(tmp_path).warnings == ()


@pytest.mark.parametrize("copied", [[4], [0, 9], range(10)])
def test_exact_copies_of_slices_are_left_out_with_a_warning(tmp_path: Path, copied: Any) -> None:
    files = write_series(tmp_path / "s", tiny_hu())
    (tmp_path / "s" / "copy").mkdir()
    for k in copied:  # as browsers, file managers and copies of whole folders name them
        shutil.copyfile(files[k], files[k].with_name(f"{files[k].stem} (1).dcm"))
        shutil.copyfile(files[k], tmp_path / "s" / "copy" / files[k].name)
    ct = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(ct.hu_kji, tiny_hu())
    assert ct.warnings == (f"{2 * len(copied)} slice(s) were exact copies of others and were left out.",)
    assert [info.slices for info in list_series(tmp_path / "s")] == [10]


def test_copies_do_not_make_a_series_longer_than_another(tmp_path: Path) -> None:
    for file in write_series(tmp_path / "a", tiny_hu(), number=1):
        shutil.copyfile(file, file.with_suffix(".copy"))
    write_series(tmp_path / "b", tiny_hu(shape_kji=(12, 12, 14)), number=2)
    ct = read_ct(tmp_path)
    assert ct.series == "2: Chest 2.0 soft"
    assert [text for text in ct.warnings if "copies" in text] == []


def test_copy_whose_pixels_differ_is_another_slice_at_its_position(tmp_path: Path) -> None:
    file = write_series(tmp_path, tiny_hu())[4]
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.with_name("other.dcm").write_bytes(raw)
    with pytest.raises(InputError, match=rf"two slices at one position: .*{file.name}.*Keep one acquisition"):
        read_ct(tmp_path)


def test_only_files_of_the_same_header_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compared(*_args: Any, **_options: Any) -> bool:
        raise AssertionError("slices at different positions were compared")

    monkeypatch.setattr("filecmp.cmp", compared)
    write_series(tmp_path, tiny_hu())
    assert len(read_ct(tmp_path).hu_kji) == 10


def test_thick_slices_give_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(), spacing_ijk_mm=(0.75, 0.5, 8.0))
    (found,) = read_ct(tmp_path).warnings
    assert "10 slices, 8.0 mm apart" in found


def test_description_in_latin_1_is_readable(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(), SpecificCharacterSet="ISO_IR 100", SeriesDescription="Lungenöffnung")
    assert read_ct(tmp_path).series == "3: Lungenöffnung"


def test_description_in_japanese_is_readable(tmp_path: Path) -> None:
    charset = ["", "ISO 2022 IR 87"]
    write_series(tmp_path, tiny_hu(), SpecificCharacterSet=charset, SeriesDescription="胸部 Lung")
    assert read_ct(tmp_path).series == "3: 胸部 Lung"


def test_escapes_in_a_description_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write_series(tmp_path, tiny_hu(), SeriesDescription="Chest\x1b[31m\a 2.0")
    assert read_ct(tmp_path).series == "3: Chest [31m 2.0"


def test_rle_compressed_series_is_read(tmp_path: Path) -> None:
    for file in write_series(tmp_path, tiny_hu()):
        ds = pydicom.dcmread(file)
        ds.compress(pydicom.uid.RLELossless)
        ds.save_as(file)
    np.testing.assert_array_equal(read_ct(tmp_path).hu_kji, tiny_hu())
