"""Prepared cases are read back as they were written, and packed ones are as good for training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.preprocess import PreprocessingRecipe
from helpers_experiment import tiny_recipe, write_cases
from helpers_training import ball_case

from CovidSegTraining.cache import PACKED_HU, case_files, key_of, pack_cases, read_case, write_case
from CovidSegTraining.cli import main
from CovidSegTraining.data import DataConfig, Phantoms
from CovidSegTraining.experiment.cache import prepare_cases
from CovidSegTraining.prepare import _remove_others, prepare
from CovidSegTraining.product.patches import load_cases


def test_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    case = ball_case(seed=0)
    written = replace(
        case, weight=0.3, key="k", partial_kji=case.codes_kji[::-1], labelled_by="sha", preprocessing="{}"
    )
    write_case(tmp_path / "a.npz", written)
    found = read_case(tmp_path / "a.npz")
    assert found.partial_kji is not None and np.array_equal(found.partial_kji, case.codes_kji[::-1])
    assert np.array_equal(found.hu_kji, case.hu_kji) and np.array_equal(found.codes_kji, case.codes_kji)
    assert (found.weight, found.key, found.labelled_by, found.preprocessing) == (0.3, "k", "sha", "{}")
    assert key_of(tmp_path / "a.npz") == "k"


def test_case_that_does_not_tell_where_it_comes_from_is_read_too(tmp_path: Path) -> None:
    case = ball_case(seed=0)
    np.savez(tmp_path / "a.npz", hu=case.hu_kji, codes=case.codes_kji, weight=2.0)
    found = read_case(tmp_path / "a.npz")
    assert (found.weight, found.key, found.labelled_by, found.preprocessing) == (2.0, "", "", "")
    assert found.partial_kji is None and key_of(tmp_path / "a.npz") == ""


def test_case_that_is_not_there_is_said_to_be_not_prepared(tmp_path: Path) -> None:
    assert key_of(tmp_path / "a.npz") == ""
    with pytest.raises(InputError, match=r"a.npz: not prepared; run 'covidseg-train prepare' first"):
        read_case(tmp_path / "a.npz")


def test_cases_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = [f"{letter}.npz" for letter in "gcbhadfe"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in case_files(tmp_path)] == sorted(names)


def test_packed_case_keeps_codes_and_weight_and_hu_to_five(tmp_path: Path) -> None:
    case = replace(ball_case(seed=0), weight=0.4, key="k", labelled_by="sha")
    case.hu_kji[0, 0, :4] = (-2000, 1500, -1004, 16)
    (tmp_path / "cache").mkdir()
    write_case(tmp_path / "cache" / "ball.npz", replace(case, partial_kji=case.codes_kji))
    assert main(["pack", "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "packed")]) == 0

    packed = read_case(tmp_path / "packed" / "ball.npz")
    assert np.abs(packed.hu_kji - np.clip(case.hu_kji, *PACKED_HU)).max() == 5
    assert packed.hu_kji[0, 0, :4].tolist() == [-1500, 500, -1000, 20]
    assert np.array_equal(packed.codes_kji, case.codes_kji)
    assert (packed.weight, packed.key, packed.labelled_by, packed.partial_kji) == (0.4, "k", "sha", None)
    assert [c.name for c in load_cases(tmp_path / "packed")] == ["ball"]


def test_packed_case_is_a_fraction_of_the_size(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    case = ball_case(seed=0)
    write_case(tmp_path / "cache" / "ball.npz", case)
    lines: list[str] = []
    pack_cases(tmp_path / "cache", tmp_path / "packed", tell=lines.append)
    assert len(lines) == 1 and lines[0].startswith("ball: 0.1 -> 0.0 MiB")
    sizes = [(tmp_path / folder / "ball.npz").stat().st_size for folder in ("cache", "packed")]
    assert sizes[1] < 0.5 * sizes[0]
    assert sizes[0] > case.hu_kji.nbytes + case.codes_kji.nbytes  # what is trained on is read fast


def test_nothing_to_pack_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'covidseg-train prepare' first"):
        pack_cases(tmp_path, tmp_path / "packed", tell=print)
    assert not (tmp_path / "packed").exists()


def test_case_of_an_experiment_is_not_called_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 2, 2)), labels=np.zeros((2, 2, 2)), recipe=np.array("x"))
    with pytest.raises(InputError, match=r"a.npz: not prepared by a recipe of the product .*; give the --config"):
        read_case(tmp_path / "a.npz")


def test_damaged_case_is_named_however_it_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    write_case(tmp_path / "cache" / "ball.npz", ball_case(seed=0))
    pack_cases(tmp_path / "cache", tmp_path / "packed", tell=print)
    whole, packed = ((tmp_path / folder / "ball.npz").read_bytes() for folder in ("cache", "packed"))
    flipped, scrambled = bytearray(whole), bytearray(packed)
    flipped[len(whole) // 4] ^= 0xFF
    scrambled[200:400] = bytes(byte ^ 0xFF for byte in packed[200:400])
    for content in (whole[:3000], flipped, scrambled, b"", b"nonsense"):
        (tmp_path / "ball.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"ball.npz: damaged .*; delete it and run 'covidseg-train prepare' again"):
            read_case(tmp_path / "ball.npz")
    (tmp_path / "ball.npz").write_bytes(whole[:3000])
    assert key_of(tmp_path / "ball.npz") == ""


def test_case_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(PermissionError):
        read_case(tmp_path / "ball.npz")


def test_cases_are_not_packed_over_themselves(tmp_path: Path) -> None:
    write_case(tmp_path / "ball.npz", ball_case(seed=0))
    before = (tmp_path / "ball.npz").read_bytes()
    roundabout = tmp_path / "." / ".." / tmp_path.name
    for cache, packed in ((tmp_path, roundabout), (roundabout, tmp_path)):
        with pytest.raises(InputError, match="would replace the originals"):
            pack_cases(cache, packed, tell=print)
    assert (tmp_path / "ball.npz").read_bytes() == before


def test_packed_folder_with_a_case_of_before_is_refused(tmp_path: Path) -> None:
    cache, packed = tmp_path / "cache", tmp_path / "packed"
    for name in ("ball", "left_out_since"):
        write_case(cache / f"{name}.npz", ball_case(seed=0))
    pack_cases(cache, packed, tell=print)
    (cache / "left_out_since.npz").unlink()
    before = (packed / "ball.npz").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"left_out_since\.npz: not a case of .*cache, and 'fit' would train on it"):
        pack_cases(cache, packed, tell=print)
    assert (packed / "ball.npz").stat().st_mtime_ns == before
    (packed / "left_out_since.npz").unlink()
    pack_cases(cache, packed, tell=print)  # cases of the same names are replaced
    assert [path.name for path in case_files(packed)] == ["ball.npz"]


def test_cases_of_the_other_training_are_neither_replaced_nor_removed(tmp_path: Path) -> None:
    data, cache = write_cases(tmp_path / "data", count=1), tmp_path / "cache"
    experiment = partial(prepare_cases, data, settings=tiny_recipe().preprocessing, classes=4, tell=lambda line: None)
    experiment(cache_dir=cache)
    before = (cache / "case_0.npz").read_bytes()
    product = DataConfig(labelled=None, phantoms=Phantoms(count=1))
    with pytest.raises(InputError, match=r"case_0\.npz: prepared by an experiment's recipe, which needs a cache"):
        prepare(product, data_dir=data, cache_dir=cache, preprocessing=PreprocessingRecipe(), tell=print)
    assert (cache / "case_0.npz").read_bytes() == before and [path.name for path in cache.iterdir()] == ["case_0.npz"]

    write_case(tmp_path / "products" / "case_0.npz", replace(ball_case(seed=0), key="k", labelled_by="sha"))
    with pytest.raises(InputError, match=r"case_0\.npz: prepared by a recipe of the product, which needs a cache"):
        experiment(cache_dir=tmp_path / "products")
    assert read_case(tmp_path / "products" / "case_0.npz").labelled_by == "sha"


def test_what_macos_keeps_beside_cases_on_other_systems_drives_is_no_case(tmp_path: Path) -> None:
    write_case(tmp_path / "cache" / "ball.npz", ball_case(seed=0))
    (tmp_path / "cache" / "._ball.npz").write_bytes(b"\x00\x05\x16\x07")
    assert [case.name for case in load_cases(tmp_path / "cache")] == ["ball"]
    pack_cases(tmp_path / "cache", tmp_path / "packed", tell=lambda line: None)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["ball.npz"]
    _remove_others(tmp_path / "cache", wanted={"ball"}, tell=lambda line: None)
    assert len(list((tmp_path / "cache").iterdir())) == 2
