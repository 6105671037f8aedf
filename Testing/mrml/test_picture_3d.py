"""Pictures in 3D without a window: what is where, in which colour, and what happens without OpenGL."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import picture_3d  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from CovidSegLib.geometry import Geometry  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from picture_3d import render_labelmap  # noqa: E402

pytestmark = pytest.mark.slicer

SIZE = (160, 120)
GEOMETRY = Geometry((40, 24, 30), (2.0, 2.0, 2.0))
"""i runs to the patient's left, j to the back, k to the head."""


@pytest.fixture(scope="module")
def apart() -> Iterator[Executor]:
    """Renders in a process of its own, or skips where nothing can be rendered.

    Mesa brings LLVM, and so does triton, which the CUDA build of torch imports to train: both in one process crash it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        if reason := pool.submit(why_nothing_can_be_rendered).result():
            pytest.skip(reason)
        yield pool


def why_nothing_can_be_rendered() -> str:
    try:
        picture_3d.render_window()
    except RuntimeError as error:
        return str(error)
    return ""


def chest() -> np.ndarray:
    """Return two boxes of lung, and an infection at the top of the left one."""
    labels_kji = np.zeros(GEOMETRY.shape_kji, dtype=np.uint8)
    labels_kji[4:26, 6:18, 24:36] = Label.LEFT_LUNG
    labels_kji[4:26, 6:18, 4:16] = Label.RIGHT_LUNG
    labels_kji[18:23, 9:15, 27:33] = Label.INFECTION
    return labels_kji


def read_png(path: Path) -> np.ndarray:
    """Return a picture as (rows, columns, 3) float, rows from the top."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(float)[..., :3]  # type: ignore[no-any-return]


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    """Return where a part of the picture is: share of its height and of its width."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean() / mask.shape[0]), float(columns.mean() / mask.shape[1])


def red_of(picture: np.ndarray) -> np.ndarray:
    red, green, blue = picture.transpose(2, 0, 1)
    return np.asarray(red > 1.5 * np.maximum(green, blue))


def blue_of(picture: np.ndarray) -> np.ndarray:
    red, _, blue = picture.transpose(2, 0, 1)
    return np.asarray(blue > 1.1 * red)


def test_infection_is_red_through_the_lung_on_the_patients_side(apart: Executor, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    apart.submit(render_labelmap, path, labelmap_kji=chest(), geometry=GEOMETRY, size=SIZE).result()
    picture = read_png(path)
    assert picture.shape == (120, 160, 3)
    row, column = centre_of(red_of(picture))
    assert row < 0.45, "the infection is at the top of the lung"
    assert column > 0.6, "from the front, the patient's left is on the picture's right"
    blue = blue_of(picture)
    assert blue[:, :80].sum() == pytest.approx(blue[:, 80:].sum() + red_of(picture).sum(), rel=0.1)
    assert (picture[0] == 255.0).all(), "the background is white"


def test_empty_infection_leaves_two_blue_lungs(apart: Executor, tmp_path: Path) -> None:
    labels_kji = chest()
    labels_kji[labels_kji == Label.INFECTION] = Label.LEFT_LUNG
    path = tmp_path / "picture.png"
    apart.submit(render_labelmap, path, labelmap_kji=labels_kji, geometry=GEOMETRY, size=SIZE).result()
    picture = read_png(path)
    assert not red_of(picture).any()
    assert blue_of(picture)[:, :80].any()
    assert blue_of(picture)[:, 80:].any()


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    nothing = np.zeros(GEOMETRY.shape_kji, dtype=np.uint8)
    with pytest.raises(RuntimeError, match="neither lungs nor infection"):
        render_labelmap(tmp_path / "picture.png", labelmap_kji=nothing, geometry=GEOMETRY)
    assert list(tmp_path.iterdir()) == []


def test_without_opengl_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        def SetOffScreenRendering(self, on: bool) -> None:  # noqa: N802
            pass

        def SupportsOpenGL(self) -> int:  # noqa: N802
            return 0

    monkeypatch.setattr(picture_3d, "_window_makers", lambda: [Blind, Blind])
    with pytest.raises(RuntimeError, match=r"offers no OpenGL.*install Mesa"):
        render_labelmap(tmp_path / "picture.png", labelmap_kji=chest(), geometry=GEOMETRY)
    assert list(tmp_path.iterdir()) == []
