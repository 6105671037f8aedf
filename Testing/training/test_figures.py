from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry

from CovidSegTraining.experiment.case_scores import CLASSES, CaseScores
from CovidSegTraining.experiment.figure_pictures import WINDOW_HU, draw_pictures, picture_row
from CovidSegTraining.figures import (
    BOXED_SCORES,
    History,
    draw_losses,
    draw_score_boxes,
    find_histories,
    read_history,
    save_figure,
    smooth_losses,
)


def _history(name: str, *, epochs: int, factor: float, seed: int) -> History:
    """Return a loss that falls as the root of the epoch, with noise in proportion."""
    n = np.arange(1, epochs + 1)
    noise = np.random.default_rng(seed).normal(0, 0.1, (2, epochs))
    training, validation = factor * 3.0 / np.sqrt(n) * np.exp(noise)
    return History(name, n, training, 1.5 * validation)


def _three() -> list[History]:
    return [
        _history(f"fold_{n}", epochs=epochs, factor=factor, seed=n)
        for n, (epochs, factor) in enumerate(((60, 0.9), (90, 1.0), (120, 1.1)))
    ]


def _pooled(histories: list[History]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    folds = np.repeat(np.arange(len(histories)), [len(history.epochs) for history in histories])
    return (
        np.concatenate([history.epochs for history in histories]),
        np.concatenate([history.training for history in histories]),
        folds,
    )


def test_smoothed_curve_is_the_known_one() -> None:
    epochs, losses, folds = _pooled(_three())
    curve = smooth_losses(epochs, losses, folds=folds)
    assert curve.epochs.tolist() == list(range(1, 121))
    assert curve.loss == pytest.approx(3.0 / np.sqrt(curve.epochs), rel=0.12)
    assert ((curve.low < curve.loss) & (curve.loss < curve.high)).all()
    assert ((curve.low < 3.0 / np.sqrt(curve.epochs)) & (3.0 / np.sqrt(curve.epochs) < curve.high)).mean() > 0.9


def test_band_is_wider_where_fewer_folds_are_left() -> None:
    epochs, losses, folds = _pooled(_three())
    curve = smooth_losses(epochs, losses, folds=folds)
    width = np.log(curve.high / curve.low)
    assert width[119] > width[40]


def test_smoothing_repeats() -> None:
    epochs, losses, folds = _pooled(_three())
    first, second = (smooth_losses(epochs, losses, folds=folds) for _ in range(2))
    np.testing.assert_array_equal(first.loss, second.loss)


def test_figure_4_shows_every_fold_and_both_curves_and_leaves_no_state(tmp_path: Path) -> None:
    backend = matplotlib.get_backend()
    histories = _three()
    histories[1].validation[::2] = np.nan  # validated every other epoch
    figure = draw_losses(histories)
    [panel] = figure.axes
    smooth = [line for line in panel.lines if line.get_label() in ("training", "validation")]
    assert [len(line.get_xdata()) for line in smooth] == [120, 120]
    assert sum(len(line.get_xdata()) in (60, 90, 120) for line in panel.lines) == 2 * 3 + 2
    assert {"1", "2", "3"} <= {text.get_text() for text in panel.texts}
    save_figure(tmp_path / "out" / "figure.png", figure)
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend() == backend


def test_figure_without_validation_is_drawn() -> None:
    history = _history("fold_0", epochs=30, factor=1.0, seed=0)
    history.validation[:] = np.nan
    [panel] = draw_losses([history]).axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["training"]


def test_histories_are_found_by_tabs_and_commas_in_order_of_folds(tmp_path: Path) -> None:
    for number in (10, 2):
        (tmp_path / f"history.fold_{number}.tsv").write_text("epoch\tloss\tlr\tval_loss\n1\t2.5\t0.1\t3\n2\t2\t0.1\t\n")
    (tmp_path / "fold_1").mkdir()
    (tmp_path / "fold_1" / "history.csv").write_text("epoch,loss,val_loss\n1,0.5,0.75\n")
    histories = find_histories(tmp_path)
    assert [history.name for history in histories] == ["fold_1", "fold_2", "fold_10"]
    assert histories[1].training.tolist() == [2.5, 2.0]
    np.testing.assert_array_equal(histories[1].validation, [3.0, np.nan])
    assert histories[0].epochs.tolist() == [1]


def test_histories_of_several_runs_are_not_mixed(tmp_path: Path) -> None:
    for run in ("k_2", "k_3"):
        (tmp_path / run / "fold_0").mkdir(parents=True)
        (tmp_path / run / "fold_0" / "history.fold_0.tsv").write_text("epoch\tloss\tval_loss\n1\t2.5\t3\n")
    with pytest.raises(InputError, match="2 histories of fold_0; give the folder of one run"):
        find_histories(tmp_path)
    assert len(find_histories(tmp_path / "k_2")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,loss\n1,2\n", "no column 'val_loss'"),
        ("epoch,loss,val_loss\n", "no epochs"),
        ("epoch,loss,val_loss\n1,2,3\n2,much,3\n", "line 3: could not convert"),
        ("epoch,loss,val_loss\n1,-2,3\n", "line 2: epoch and loss must be above 0"),
        ("epoch,loss,val_loss\n1,2\n", "line 2: the line is cut short"),
    ],
)
def test_damaged_history_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_history(path)


def test_missing_history_is_named_once_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_history(tmp_path / "history.csv")
    path = tmp_path / "history.csv"
    assert str(raised.value) == f"{path}: cannot be read (No such file or directory); check the path"


def test_folder_without_histories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no history"):
        find_histories(tmp_path)


def test_figure_5_has_a_box_per_score_and_class_and_a_point_per_case() -> None:
    rng = np.random.default_rng(0)
    cases = [
        CaseScores(f"c{n}", {score: dict(zip(CLASSES, rng.uniform(size=4), strict=True)) for score in BOXED_SCORES})
        for n in range(9)
    ]
    cases[0].values["DSC"]["infection"] = float("nan")  # type: ignore[index]
    figure = draw_score_boxes(cases)
    assert [panel.get_title() for panel in figure.axes] == ["Dice", "sensitivity", "specificity"]
    for panel, score in zip(figure.axes, BOXED_SCORES, strict=True):
        assert len(panel.patches) == 4
        points = [line for line in panel.lines if line.get_marker() == "o"]
        assert [len(line.get_ydata()) for line in points] == [9, 9, 9, 8 if score == "DSC" else 9]


def test_figure_6_shows_the_slice_with_most_infection_patients_right_on_the_left() -> None:
    # i runs to the patient's right, k to the feet: both are turned.
    grid = Geometry((12, 10, 6), (1.0, 2.0, 3.0), direction_lps=(-1, 0, 0, 0, 1, 0, 0, 0, -1))
    truth = np.zeros(grid.shape_kji, dtype=np.uint8)
    truth[:, 2:8, 1:5], truth[:, 2:8, 7:11] = 1, 2  # left at low i
    truth[4, 3:7, 2:4] = 3
    found = np.where(truth == 3, 1, truth)
    hu = np.broadcast_to(np.arange(6)[:, None, None] * 100.0 - 1000.0, grid.shape_kji)
    row = picture_row(hu, title="x", truth_kji=truth, found_kji=found, geometry=grid)
    assert (row.hu == -600.0).all() and row.spacing_mm == (2.0, 1.0)
    np.testing.assert_array_equal(row.truth, truth[4, :, ::-1])
    figure = draw_pictures([row])
    ct, reference, prediction = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["CT", "reference", "prediction"]
    assert ct.images[0].get_clim() == WINDOW_HU == (-1250.0, 250.0)
    overlays = [panel.images[1].get_array() for panel in (reference, prediction)]
    red = [(overlay[..., 0] > 0.8) & (overlay[..., 3] > 0) for overlay in overlays]
    np.testing.assert_array_equal(red[0], row.truth == 3)
    assert not red[1].any()
    blue = (overlays[1][..., 2] > 0.8) & (overlays[1][..., 3] > 0)
    np.testing.assert_array_equal(blue, row.found > 0)


def test_figure_6_of_a_case_without_infection_shows_most_lung() -> None:
    truth = np.zeros((5, 8, 8), dtype=np.uint8)
    truth[3, 2:6, 2:6] = 1
    row = picture_row(
        np.zeros(truth.shape), title="x", truth_kji=truth, found_kji=truth, geometry=Geometry((8, 8, 5), (1, 1, 1))
    )
    assert row.truth.sum() == 16


@pytest.mark.realdata
def test_papers_five_histories_give_figure_4(data_dir: Path, tmp_path: Path) -> None:
    histories = find_histories(data_dir / "muller20" / "paper")
    assert [len(history.epochs) for history in histories] == [276, 218, 289, 251, 522]
    figure = draw_losses(histories)
    [panel] = figure.axes
    for name in ("training", "validation"):
        [curve] = [line.get_ydata() for line in panel.lines if line.get_label() == name]
        losses = np.concatenate([getattr(history, name) for history in histories])
        assert len(curve) == 522
        assert losses.min() < curve.min() and curve.max() < losses.max()
    save_figure(tmp_path / "figure.png", figure)
    assert (tmp_path / "figure.png").stat().st_size > 50_000
