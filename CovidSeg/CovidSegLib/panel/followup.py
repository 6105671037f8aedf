"""The section Follow-up: several results of one patient, in the order of time, with the change per week."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from slicer.i18n import tr as _

from ..errors import CovidSegError
from ..results.followup import FollowUpRow, TimePoint
from ..scenes.edited import Digests, is_edited
from ..scenes.followup import (
    find_follow_up,
    parse_date,
    segmentations_of_patient,
    show_follow_up,
    study_date,
    time_point,
)
from ..scenes.outputs import ct_of
from ..scenes.report import stored_report
from .texts import NOT_DEFINED
from .views import Views
from .workplace import Workplace, explain_error, fit_height, show_text, waiting

#: Columns of the table of results that the user may change.
NAME, DAY = range(2)


class FollowUpSection:
    """Lists the results of the patient whose CT is chosen, and compares those that are checked."""

    def __init__(
        self, place: Workplace, *, views: Views, figures_on_show: Callable[[Any], Mapping[str, Any] | None]
    ) -> None:
        """Work in `place`; `figures_on_show` returns the figures of a segmentation that were just measured."""
        self._place, self._ui, self._views = place, place.ui, views
        self._figures_on_show = figures_on_show
        self._nodes: list[Any] = []
        self._left_out: set[str] = set()
        self._table_node: Any = None
        self._compared: frozenset[tuple[str, date | None]] = frozenset()
        self._digests = Digests()
        self._voxels: frozenset[tuple[str, str]] = frozenset()
        self._filling = False
        self._shown: list[tuple[bool, str, str, str]] | None = None
        ui = self._ui
        ui.earlierButton.connect("clicked(bool)", lambda: self.move(-1))
        ui.laterButton.connect("clicked(bool)", lambda: self.move(1))
        ui.compareButton.connect("clicked(bool)", self.compare)
        ui.followUpTable.connect("cellChanged(int,int)", self._cell_changed)
        ui.followUpTable.connect("itemSelectionChanged()", self._allow)
        self._say("")

    def refresh(self) -> None:
        """List the results that are in the scene now; their order and check marks stay."""
        volume = self._place.volume()
        context = self._place.logic.context
        present = [] if volume is None else segmentations_of_patient(context, volume_node=volume)
        kept = [node for node in self._nodes if node in present]
        nodes = [*kept, *(node for node in present if node not in kept)] if kept else present
        self._nodes = nodes
        self._drop_changes()
        self._fill()
        self._allow()

    def scene_closes(self) -> None:
        """Forget the scene."""
        self._nodes, self._table_node = [], None
        self._left_out.clear()
        self._digests = Digests()
        self._ui.changeTable.visible = False
        self._say("")
        self._fill()

    def move(self, step: int) -> None:
        """Move the selected result one place up or down."""
        row = self._selected_row()
        target = row + step
        if row < 0 or not 0 <= target < len(self._nodes):
            return
        self._nodes[row], self._nodes[target] = self._nodes[target], self._nodes[row]
        self._fill()
        self._ui.followUpTable.selectRow(target)
        if all(self._day(node) is not None for node in self._checked()):
            self._say(_("All results have a date, and are compared by date. Clear a date to use your own order."))

    def compare(self) -> None:
        """Make a table and plots of the checked results."""
        self.refresh()  # a CT may just have been removed
        if self._why_not():
            return
        context = self._place.logic.context
        try:
            with waiting():
                points = [self._time_point(node) for node in self._checked()]
            table_node = find_follow_up(context, segmentation_nodes=self._nodes)
            course = show_follow_up(context, points=points, table_node=table_node, segmentation_nodes=self._checked())
        except (CovidSegError, MemoryError) as error:
            self._say(explain_error(error), role="error")
            return
        self._table_node = course.tableNode
        self._compared, self._voxels = self._chosen(), self._voxels_now()
        fill_changes(self._ui.changeTable, rows=course.rows)
        self._ui.changeTable.visible = True
        self._views.show_chart(course.plots["poi"].chartNode)
        self._say(_("The table '{name}' and its plots are in the scene.").format(name=course.tableNode.GetName()))

    def _time_point(self, node: Any) -> TimePoint:
        """Return a result's figures; they are measured again only if it was corrected."""
        day = self._day(node)
        figures = self._figures_on_show(node)
        if figures is None and not is_edited(node):
            figures = stored_report(node)
        if figures is None:
            return time_point(self._place.logic, segmentation_node=node, day=day)  # type: ignore[arg-type]
        return TimePoint(ct_of(node).GetName(), figures, day)

    def _why_not(self) -> str:
        if self._place.volume() is None:
            return _("Choose a CT above: the results of its patient are compared.")
        if not self._nodes:
            return _("This patient has no results yet. Segment at least two CTs.")
        if len(self._checked()) < 2:
            return _("Check at least two results.")
        return ""

    def _allow(self) -> None:
        row = self._selected_row()
        nothing = _("Choose a result in the table.") if row < 0 else ""
        self._place.allow("earlierButton", unless=nothing or (_("It is the first.") if row == 0 else ""))
        last = row == len(self._nodes) - 1
        self._place.allow("laterButton", unless=nothing or (_("It is the last.") if last else ""))
        self._place.allow("compareButton", unless=self._why_not())

    def _fill(self) -> None:
        """Fill the table, but only if something changed: the user may be typing a date."""
        rows = [self._row(node) for node in self._nodes]
        if rows == self._shown:
            return
        self._shown = rows
        self._filling = True
        try:
            self._fill_table(rows)
        finally:
            self._filling = False

    def _row(self, node: Any) -> tuple[bool, str, str, str]:
        """Return whether a result is checked, and the texts of its row."""
        day = self._day(node)
        name = ct_of(node).GetName()
        return node.GetID() not in self._left_out, name, "" if day is None else day.isoformat(), node.GetName()

    def _fill_table(self, rows: Sequence[tuple[bool, str, str, str]]) -> None:
        import qt

        table = self._ui.followUpTable
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("CT"), _("Date"), _("Result")])
        table.setRowCount(len(rows))
        for row, (checked, *texts) in enumerate(rows):
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                if column == NAME:
                    item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
                if column != DAY:
                    item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
                table.setItem(row, column, item)
        table.verticalHeader().visible = False
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        fit_height(table, rows=max(len(rows), 2))

    def _cell_changed(self, row: int, column: int) -> None:
        """Take over a date or a check mark that the user has set."""
        import qt

        if self._filling or not 0 <= row < len(self._nodes):
            return
        node, item = self._nodes[row], self._ui.followUpTable.item(row, column)
        if column == NAME:
            if item.checkState() == qt.Qt.Checked:
                self._left_out.discard(node.GetID())
            else:
                self._left_out.add(node.GetID())
        elif column == DAY:
            self._set_day(node, text=item.text())
            self._shown = None  # show the date as it was understood
            self._fill()
        self._drop_changes()
        self._allow()

    def _drop_changes(self) -> None:
        """Hide the table of changes if the checked results, their voxels or dates are others, or its node is gone."""
        if self._table_node is None:
            return
        same = self._chosen() == self._compared and self._place.logic.context.scene.IsNodePresent(self._table_node)
        if same and self._voxels_now() == self._voxels:
            return
        self._table_node = None
        self._ui.changeTable.visible = False
        self._say(_("A result has changed since it was compared; compare again.") if same else "")

    def _chosen(self) -> frozenset[tuple[str, date | None]]:
        """Return the checked results with their dates."""
        return frozenset((node.GetID(), self._day(node)) for node in self._checked())

    def _voxels_now(self) -> frozenset[tuple[str, str]]:
        """Return the checked results with the digests of their segments."""
        return frozenset((node.GetID(), self._digests.of(node)) for node in self._checked())

    def _set_day(self, node: Any, *, text: str) -> None:
        """Keep a date in the CT's node, and so in a saved scene; an empty one overrides the date of DICOM."""
        import slicer

        if text.strip() and parse_date(text) is None:
            self._say(_("'{text}' is not a date. Write it as 2020-03-31.").format(text=text), role="error")
            return
        day = parse_date(text)
        name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMStudyDateAttributeName()
        ct_of(node).SetAttribute(name, "" if day is None else day.isoformat().replace("-", ""))
        self._say("")

    def _day(self, node: Any) -> date | None:
        return study_date(self._place.logic.context, volume_node=ct_of(node))

    def _checked(self) -> list[Any]:
        return [node for node in self._nodes if node.GetID() not in self._left_out]

    def _selected_row(self) -> int:
        return int(self._ui.followUpTable.currentRow()) if self._nodes else -1

    def _say(self, text: str, *, role: str = "") -> None:
        show_text(self._ui.followUpLabel, text, role=role)


def fill_changes(table: Any, *, rows: Sequence[FollowUpRow]) -> None:
    """Show time points with their changes per week; each is named by its date, or by its CT without one."""
    import qt

    headers = [_("Date"), _("Infected\n(%)"), _("per week\n(points)"), _("Infection\n(ml)"), _("Lungs\n(ml)")]
    table.setColumnCount(len(headers) + 1)
    table.setRowCount(len(rows))
    table.setHorizontalHeaderLabels([*headers, _("Severity")])
    table.verticalHeader().visible = False
    for index, row in enumerate(rows):
        texts = (
            row.name if row.study_date is None else row.study_date.isoformat(),
            _number(row.figures["poi_percent"], digits=1),
            _number(row.change_per_week["poi_percent"], digits=1, sign="+"),
            _number(row.figures["infection_ml"], digits=0),
            _number(row.figures["lung_ml"], digits=0),
            row.severity or NOT_DEFINED,
        )
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(row.name)
            item.setTextAlignment((qt.Qt.AlignRight if column else qt.Qt.AlignLeft) | qt.Qt.AlignVCenter)
            table.setItem(index, column, item)
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    fit_height(table, rows=len(rows), scrolls=True)


def _number(value: float | None, *, digits: int, sign: str = "") -> str:
    return NOT_DEFINED if value is None else f"{value:{sign}z.{digits}f}"
