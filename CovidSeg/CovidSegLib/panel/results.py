"""The section Results: figures, severity and curves of the chosen segmentation; copied, plotted, saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from ..cases.names import safe_case_name
from ..errors import CovidSegError
from ..results.severity import DEFINITION as SEVERITY_DEFINITION
from ..runner import Failure, Handlers, Runner
from ..scenes.correct import previous_result
from ..scenes.display import jump_to, most_infected_ras
from ..scenes.edited import is_edited
from ..scenes.plots import show_histogram, show_profile
from ..scenes.report import stored_report
from ..scenes.segments import read_masks, why_not_measured
from ..scenes.texts import shown
from .curves import CurvesView
from .export import CaseSource, save_case, save_table, table_text
from .figures import Figures, State
from .texts import (
    comparison_text,
    composition_text,
    headline_text,
    no_result_text,
    previous_text,
    severity_text,
    table_rows,
)
from .views import Views
from .workplace import (
    Workplace,
    explain_error,
    fit_height,
    import_for_worker,
    log_and_explain,
    show_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class ResultsSection:
    """Shows what was found in the chosen segmentation."""

    def __init__(self, place: Workplace, *, measurer: Runner, views: Views) -> None:
        """Work in `place`; the worker `measurer` measures and saves, also during a run; `views` shows plots."""
        self._place, self._ui, self._measurer, self._views = place, place.ui, measurer, views
        self._curves = CurvesView(place.ui, moved=self._look_at)
        self._drawn: Any = None
        self._shown: Any = None
        self.figures = Figures(place.logic, measurer=measurer, changed=self._show)
        buttons: dict[str, Callable[[], None]] = {
            "updateButton": self.figures.measure,
            "mostInfectedButton": self.show_most_infected,
            "plotsButton": self.show_plots,
            "copyButton": self.copy,
            "csvButton": self.save_csv,
            "reportButton": self.save_report,
        }
        for name, function in buttons.items():
            getattr(self._ui, name).connect("clicked(bool)", function)
        self._curves.show(None)
        self._say("")
        self._show()

    def figures_of(self, segmentation: Any) -> Mapping[str, Any] | None:
        """Return the figures of a segmentation if they are on show and up to date."""
        figures = self.figures
        return figures.current if segmentation is figures.node and figures.state is State.UP_TO_DATE else None

    def refresh(self) -> None:
        """Enable what can be done now, and say of the rest why not."""
        for name, reason in self._reasons().items():
            self._place.allow(name, unless=reason)

    def show_most_infected(self) -> None:
        """Move the slice views to the slice with most infection."""
        with self._errors_shown():
            point_ras = most_infected_ras(self.figures.node, volume_node=self.figures.volume)
            if point_ras is not None:
                jump_to(self._place.logic.context, ras=point_ras)

    def show_plots(self) -> None:
        """Show profile and histogram in the layout's plot view; a click there moves the slice views."""
        context, measurement = self._place.logic.context, self.figures.measurement
        if measurement is not None and not self._reasons()["plotsButton"]:
            node, volume = self.figures.node, self.figures.volume
            show_histogram(context, segmentation_node=node, quantities=measurement.quantities)
            plot = show_profile(context, segmentation_node=node, volume_node=volume, profile=measurement.profile)
            self._views.show_chart(plot.chartNode)
        self.refresh()

    def copy(self) -> None:
        """Copy the table to the clipboard."""
        if self.figures.current is not None:
            self._views.copy_text(table_text(self.figures.current))

    def save_csv(self) -> None:
        """Save the table as CSV."""
        if self.figures.current is None:
            return
        suggestion = safe_case_name(self.figures.node.GetName() or "") + ".csv"
        path = self._place.dialogs.file_to_save(_("Save figures"), suggestion=suggestion, kinds=_("Table (*.csv)"))
        figures = self.figures.current  # the scene may have changed while the user was asked
        if path and figures is not None:
            with self._errors_shown():
                save_table(path, figures=figures)
                self._say(_("Saved {path}.").format(path=path))

    def save_report(self) -> None:
        """Save segmentation, labelmap, report and preview into a folder of the case."""
        folder = self._place.dialogs.folder(_("Folder for the case report"))
        node, volume, measurement = self.figures.node, self.figures.volume, self.figures.measurement
        if not folder or measurement is None or self._reasons()["reportButton"]:
            self.refresh()
            return
        with self._errors_shown():
            import_for_worker("SimpleITK")
            source = CaseSource(
                name=volume.GetName(),
                stored=stored_report(node),
                warnings=self.figures.warnings,
                quantities=measurement.quantities,
                hu_kji=measurement.ct.hu_kji,
                masks=read_masks(node, volume_node=volume),
                edited=is_edited(node),
            )
            handlers = Handlers(
                finished=lambda path: self._saved(_("Saved the report in {path}.").format(path=path)),
                failed=self._not_saved,
                stopped=self.figures.work_is_over,
            )
            self._measurer.start(partial(save_case, source=source, folder=folder), handlers=handlers)
            self._say(_("Saving the report..."))
        self.refresh()

    def _reasons(self) -> dict[str, str]:
        """Return, for each button, why it cannot be pressed now; empty if it can."""
        figures, wait = self.figures, _("Wait until the figures are measured.")
        uninfected, busy = "", wait if self._measurer.busy else ""
        if figures.current is None:
            unmeasured = outdated = no_result_text()
        elif figures.measurement is None:  # the figures of the stored report can be copied even so
            unmeasured = figures.problem or _("Still measuring...")
            outdated = wait if figures.measuring else ""
        else:
            unmeasured = figures.problem or shown(why_not_measured(figures.node, volume_node=figures.volume))
            outdated = wait if figures.measuring else figures.problem
            uninfected = "" if figures.current["regions"]["lungs"]["infection_ml"] else _("No infection was found.")
        return {
            "mostInfectedButton": unmeasured or uninfected,
            "plotsButton": unmeasured or outdated,
            "copyButton": outdated,
            "csvButton": outdated,
            "reportButton": unmeasured or outdated or busy,
            "updateButton": busy,
        }

    def _saved(self, text: str) -> None:
        self._say(text)
        self.figures.work_is_over()

    def _not_saved(self, failure: Failure) -> None:
        self._say(log_and_explain(failure), role="error")
        self.figures.work_is_over()

    def _look_at(self, row: int) -> None:
        """Move the slice views to a slice of the profile."""
        volume, measurement = self.figures.volume, self.figures.measurement
        if measurement is not None and volume is not None:
            index_ijk = tuple(int(index) for index in measurement.profile.point_ijk[row])
            self._views.look_at(volume, index_ijk=index_ijk)

    def _show(self) -> None:
        """Show figures and curves, and whether they are up to date."""
        ui, figures, node = self._ui, self.figures.current, self.figures.node
        if node is not self._shown:  # the last message was about another result
            self._shown = node
            self._say("")
        ui.headlineLabel.text = headline_text(figures)
        show_text(ui.severityLabel, severity_text(figures))
        ui.severityLabel.toolTip = "" if figures is None else shown(SEVERITY_DEFINITION)
        show_text(ui.compositionLabel, composition_text(figures))
        stored = None if node is None else stored_report(node)
        previous = None if node is None else previous_result(node)
        compared = (comparison_text(figures, before=stored), previous_text(previous))
        show_text(ui.comparisonLabel, "\n".join(text for text in compared if text))
        show_text(ui.warningsLabel, "\n".join(map(shown, self.figures.warnings)), role="warning")
        _fill_table(ui.resultsTable, rows=table_rows(figures))
        ui.resultsTable.visible = figures is not None
        if self.figures.measurement is not self._drawn:
            self._drawn = self.figures.measurement
            self._curves.show(self._drawn)
        self._show_whether_stale()
        self.refresh()
        self._place.figures_changed()

    def _show_whether_stale(self) -> None:
        text, role = self.figures.problem, "error"
        if text and self.figures.current is not None:
            text = " ".join((text, _("The figures shown may not be those of the segments.")))
        if self.figures.measuring:
            text, role = _("The figures are being measured from the segments as they are now..."), "warning"
        show_text(self._ui.staleLabel, text, role=role)
        self._ui.updateButton.visible = bool(text)

    def _say(self, text: str, *, role: str = "") -> None:
        show_text(self._ui.exportLabel, text, role=role)

    @contextmanager
    def _errors_shown(self) -> Iterator[None]:
        """Show an error instead of letting it out."""
        try:
            yield
        except (CovidSegError, OSError, MemoryError) as error:
            self._say(explain_error(error), role="error")


def _fill_table(table: Any, *, rows: list[tuple[str, list[str]]]) -> None:
    """Fill a table widget with rows of texts, the first of which holds the headers."""
    import qt

    (_corner, headers), *body = rows
    table.setColumnCount(len(headers))
    table.setRowCount(len(body))
    table.setHorizontalHeaderLabels(headers)
    table.setVerticalHeaderLabels([name for name, _cells in body])
    for row, (_name, cells) in enumerate(body):
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(row, column, item)
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
    fit_height(table, rows=len(body))
