"""The stand-in host itself: strict where Slicer is silent, real where MRML is concerned."""

from __future__ import annotations

import enum
import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("PySide6", reason="needs PySide6: pip install 'covidseg[dev]'")
slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")

import grab  # noqa: E402 - needs PySide6
from host_errors import HostError  # noqa: E402
from standin import Host  # noqa: E402

UI = """<ui version="4.0"><class>Small</class>
<widget class="qMRMLWidget" name="Small"><layout class="QVBoxLayout" name="rows">
<item><widget class="qMRMLNodeComboBox" name="selector">
<property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="noneEnabled"><bool>true</bool></property>
<property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
<item><widget class="QSpinBox" name="spin">
<property name="SlicerParameterName" stdset="0"><string>count</string></property></widget></item>
<item><widget class="QComboBox" name="combo">
<property name="SlicerParameterName" stdset="0"><string>mode</string></property></widget></item>
<item><widget class="ctkPathLineEdit" name="path"><property name="filters"><set>ctkPathLineEdit::Dirs</set></property>
<property name="SlicerParameterName" stdset="0"><string>folder</string></property></widget></item>
<item><widget class="QCheckBox" name="box"><property name="text"><string>Box</string></property>
<property name="SlicerParameterName" stdset="0"><string>flag</string></property></widget></item>
</layout></widget>
"""
CONNECTIONS = """<connections><connection><sender>Small</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections>"""


class Mode(enum.Enum):
    ACCURATE = "accurate"
    FAST = "fast"


def small_ui(folder: Path, *, replace: str = "", by: str = "") -> Any:
    """Load the small panel, changed in one place, as a module loads its own."""
    text = f"{UI}{CONNECTIONS}</ui>"
    assert replace in text
    path = folder / "Small.ui"
    path.write_text(text.replace(replace, by) if replace else text, encoding="utf-8")
    return slicer.util.loadUI(str(path))


def parameter_class() -> Any:
    """Return a wrapper class with a parameter of each kind."""
    from slicer.parameterNodeWrapper import Default, WithinRange, parameterNodeWrapper

    hints = {
        "volume": slicer.vtkMRMLScalarVolumeNode,
        "count": Annotated[int, WithinRange(0, 10), Default(3)],
        "mode": Mode,
        "folder": Path,
        "flag": Annotated[bool, Default(True)],
    }
    return parameterNodeWrapper(type("Small", (), {"__annotations__": hints}))


def parameter_node() -> Any:
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    class SmallLogic(ScriptedLoadableModuleLogic):
        pass

    return SmallLogic().getParameterNode()


def add_volume(scene: Any, *, name: str = "CT") -> Any:
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    return volume


@pytest.mark.parametrize(
    ("replace", "by", "message"),
    [
        ('"QSpinBox"', '"QSpinnBox"', "QSpinnBox"),
        ('name="noneEnabled"', 'name="nonEnabled"', "no property 'nonEnabled'"),
        ("<string>Box</string></property>", '</property><property name="txt"><bool>true</bool></property>', "'txt'"),
        ("mrmlSceneChanged(", "mrmlScene(", "no signal mrmlScene"),
        ("setMRMLScene(", "setScene(", "no slot setScene"),
        ("<receiver>selector<", "<receiver>selektor<", "'selektor', which is not in the file"),
        ('name="spin"', 'name="box"', "names used twice: box"),
        ("ctkPathLineEdit::Dirs", "ctkPathLineEdit::Folders", "no enumeration value Folders"),
    ],
)
def test_ui_file_with_something_unknown_is_refused(
    host: Host, tmp_path: Path, replace: str, by: str, message: str
) -> None:
    with pytest.raises(HostError, match=message.replace("(", r"\(")):
        small_ui(tmp_path, replace=replace, by=by)


def test_unknown_names_are_refused_on_reading_and_on_writing(host: Host) -> None:
    import ctk
    import qt

    button = qt.QPushButton("Go")
    with pytest.raises(HostError, match="'enable'"):
        button.enable = False
    with pytest.raises(HostError, match="'txt'"):
        _ = button.txt
    with pytest.raises(HostError, match="read-only"):
        button.width = 3
    with pytest.raises(HostError, match=r"no signal klicked\(\)"):
        button.connect("klicked()", print)
    for unknown in (lambda: qt.Signal, lambda: qt.QButton, lambda: ctk.ctkNothing, lambda: slicer.app.nothing):
        with pytest.raises(HostError):
            unknown()
    assert not hasattr(slicer.modules, "nothing")


def test_qt_objects_have_properties_and_signals_as_in_pythonqt(host: Host) -> None:
    import qt

    heard: list[Any] = []
    table = qt.QTableWidget(2, 3)
    table.horizontalHeader().stretchLastSection = True  # made by Qt, not by Python
    assert (table.rowCount, table.columnCount, table.horizontalHeader().stretchLastSection) == (2, 3, True)
    button = qt.QPushButton("Go")
    assert type(button) == qt.QPushButton  # noqa: E721 - what Slicer's connectors ask
    button.connect("clicked()", lambda: heard.append("none"))
    button.connect("clicked(bool)", heard.append)
    listener = heard.append
    button.connect("clicked(bool)", listener)
    button.disconnect("clicked(bool)", listener)
    button.click()
    assert heard == ["none", False]
    button.name = "goButton"
    assert button.objectName == "goButton"


def test_only_a_functions_arguments_are_counted_as_pythonqt_does(host: Host) -> None:
    import functools

    import qt

    heard: list[Any] = []
    button = qt.QPushButton("Go")
    button.connect("clicked(bool)", lambda checked=True: heard.append(checked))
    button.connect("clicked(bool)", functools.partial(lambda name, *rest: heard.append((name, rest)), "partial"))
    button.click()
    assert heard == [False, ("partial", (False,))]


def test_touching_a_widget_from_a_worker_thread_is_an_error(host: Host) -> None:
    import qt

    label, caught = qt.QLabel("text"), []

    def work() -> None:
        try:
            label.text = "from a thread"
        except HostError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == ["QLabel.text was touched from a thread in which it does not live"]
    assert label.text == "text"


def test_node_list_follows_the_scene_only_if_the_ui_connects_it(host: Host, tmp_path: Path) -> None:
    connected, apart = small_ui(tmp_path), small_ui(tmp_path, replace=CONNECTIONS)
    for widget in (connected, apart):
        widget.setMRMLScene(host.scene)
    volume = add_volume(host.scene)
    selector, lonely = (slicer.util.childWidgetVariables(widget).selector for widget in (connected, apart))
    assert (selector.nodeCount(), lonely.nodeCount()) == (1, 0)
    assert selector.currentNode() is None  # "none" is allowed, so nothing is chosen by itself
    heard: list[Any] = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    selector.setCurrentNode(volume)
    selector.setCurrentNode(volume)
    volume.SetName("renamed")
    assert selector.combo.currentText == "renamed"
    host.scene.RemoveNode(volume)
    assert [node.GetName() if node else None for node in heard] == ["renamed", None]


def test_node_list_without_none_takes_the_first_node(host: Host) -> None:
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setMRMLScene(host.scene)
    first, second = add_volume(host.scene, name="A"), add_volume(host.scene, name="B")
    assert selector.currentNode() is first
    host.scene.RemoveNode(first)
    assert selector.currentNode() is second
    second.HideFromEditorsOn()
    host.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert selector.nodeCount() == 1  # a label map is a volume too, unless child classes are excluded
    selector.showChildNodeTypes = False
    assert selector.nodeCount() == 0


def test_parameters_are_bound_both_ways_and_come_back_with_a_saved_scene(host: Host, tmp_path: Path) -> None:
    widget = small_ui(tmp_path)
    ui = slicer.util.childWidgetVariables(widget)
    widget.setMRMLScene(host.scene)
    parameters = parameter_class()(parameter_node())
    assert parameters.connectGui(ui) == 0  # the tag, by which the binding can be ended
    assert (ui.spin.value, ui.spin.maximum, ui.combo.currentText, ui.box.checked) == (3, 10, "ACCURATE", True)
    ui.spin.value, ui.combo.currentIndex, ui.box.checked = 7, 1, False
    ui.path.currentPath = "/data/ct"
    ui.selector.setCurrentNode(add_volume(host.scene))
    assert (parameters.count, parameters.mode, parameters.flag) == (7, Mode.FAST, False)
    assert parameters.folder == Path("/data/ct")
    parameters.count = 2
    assert ui.spin.value == 2
    with pytest.raises(ValueError, match="within range"):
        parameters.count = 11
    with pytest.raises(TypeError):
        parameters.flag = 1

    host.load_scene(host.save_scene(tmp_path / "scene.mrb"))
    again = parameter_class()(parameter_node())
    assert (again.count, again.mode, again.flag, again.volume.GetName()) == (2, Mode.FAST, False, "CT")
    assert slicer.util.arrayFromVolume(again.volume).sum() == np.arange(24).sum()


def test_opened_scene_needs_a_new_wrapper(host: Host, tmp_path: Path) -> None:
    """The module's own node is filled before the nodes that it refers to are there, and is silent afterwards."""
    before = parameter_class()(parameter_node())
    before.volume = add_volume(host.scene)
    host.load_scene(host.save_scene(tmp_path / "scene.mrb"))
    node = parameter_node()
    assert before.parameterNode is node
    assert before.volume is None
    assert parameter_class()(node).volume.GetName() == "CT"


def test_binding_ends_with_its_tag(host: Host, tmp_path: Path) -> None:
    ui = slicer.util.childWidgetVariables(small_ui(tmp_path))
    parameters = parameter_class()(parameter_node())
    tag = parameters.connectParametersToGui({"count": ui.spin})
    parameters.disconnectGui(None)
    ui.spin.value = 5
    assert parameters.count == 5
    parameters.disconnectGui(tag)
    ui.spin.value = 9
    assert parameters.count == 5
    parameters.count = 1
    assert ui.spin.value == 9


def test_parameter_forgets_a_node_that_was_removed(host: Host) -> None:
    parameters = parameter_class()(parameter_node())
    parameters.volume = add_volume(host.scene)
    host.scene.RemoveNode(parameters.volume)
    assert parameters.volume is None


def test_parameter_of_another_type_than_its_widget_is_refused(host: Host, tmp_path: Path) -> None:
    ui = slicer.util.childWidgetVariables(small_ui(tmp_path, replace='"QSpinBox"', by='"QDoubleSpinBox"'))
    with pytest.raises(HostError, match="cannot bind a QDoubleSpinBox to a parameter of type <class 'int'>"):
        parameter_class()(parameter_node()).connectGui(ui)


def test_questions_are_recorded_and_need_an_answer(host: Host) -> None:
    import qt

    slicer.util.errorDisplay("It failed", detailedText="because")
    assert (host.dialogs.last.text, host.dialogs.last.details) == ("It failed", "because")
    host.dialogs.answer("Yes", "Replace", "/tmp/out.csv")
    assert slicer.util.confirmYesNoDisplay("Sure?")
    box = qt.QMessageBox()
    replace = box.addButton("&Replace", qt.QMessageBox.AcceptRole)
    box.addButton(qt.QMessageBox.Cancel)
    box.exec_()
    assert box.clickedButton() is replace
    assert qt.QFileDialog.getSaveFileName(None, "Save") == "/tmp/out.csv"
    with pytest.raises(HostError, match="waits for an answer"):
        slicer.util.confirmYesNoDisplay("And now?")


def test_errors_in_callbacks_of_qt_and_vtk_are_kept(host: Host) -> None:
    import qt

    def fail(*_arguments: Any) -> None:
        raise ValueError("in a callback")

    button = qt.QPushButton("Go")
    button.clicked.connect(fail)
    button.click()
    node = add_volume(host.scene)
    node.AddObserver("ModifiedEvent", fail)
    node.Modified()
    assert [error.count("ValueError: in a callback") for error in host.errors] == [1, 1]
    host.errors.clear()


def test_slice_views_show_and_follow_what_the_nodes_say(host: Host) -> None:
    volume = add_volume(host.scene)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    manager = slicer.app.layoutManager()
    composites = [manager.sliceWidget(name).mrmlSliceCompositeNode() for name in manager.sliceViewNames()]
    assert {node.GetBackgroundVolumeID() for node in composites} == {volume.GetID()}
    slicer.vtkMRMLSliceNode.JumpAllSlices(host.scene, 1.0, 2.0, 3.0)
    offsets = [manager.sliceWidget(name).sliceLogic().GetSliceOffset() for name in ("Red", "Green", "Yellow")]
    assert np.abs(offsets) == pytest.approx([3.0, 2.0, 1.0])
    assert manager.plotViewCount == 0
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    assert manager.plotViewCount == 1


def test_clicked_plot_point_reaches_its_listener(host: Host) -> None:
    manager, heard = slicer.app.layoutManager(), []
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    view = manager.plotWidget(0).plotView()
    view.connect("dataSelected(vtkStringArray*, vtkCollection*)", lambda ids, rows: heard.append((ids, rows)))
    view.select("vtkMRMLPlotSeriesNode1", [4])
    (before, _none), (ids, rows) = heard
    assert before.GetNumberOfValues() == 0
    assert (ids.GetValue(0), rows.GetItemAsObject(0).GetValue(0)) == ("vtkMRMLPlotSeriesNode1", 4)


def test_segment_editor_undoes_what_was_changed_after_its_state_was_kept(host: Host) -> None:
    editor = slicer.qMRMLSegmentEditorWidget()
    with pytest.raises(HostError, match="needs setMRMLScene"):
        editor.setActiveEffectByName("Paint")
    editor.setMRMLScene(host.scene)
    editor.setMRMLSegmentEditorNode(host.scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    segmentation = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.GetSegmentation().AddEmptySegment("one")
    editor.setSegmentationNode(segmentation)
    editor.setMaximumNumberOfUndoStates(2)
    editor.saveStateForUndo()
    segmentation.GetSegmentation().AddEmptySegment("two")
    editor.undo()
    assert list(segmentation.GetSegmentation().GetSegmentIDs()) == ["one"]
    with pytest.raises(HostError, match="no effect 'Pain'"):
        editor.setActiveEffectByName("Pain")


def test_nothing_is_installed_but_recorded(host: Host) -> None:
    host.packages.missing = {"monai"}
    assert not slicer.packaging.pip_check("monai>=1.4")
    slicer.packaging.pip_ensure(["monai>=1.4", "numpy"], prompt_install=False, requester="CovidSeg")
    assert host.packages.installed == ["monai>=1.4"]
    assert slicer.packaging.pip_check("monai>=1.4")


def test_torch_extension_is_there_only_if_it_was_added(host: Host) -> None:
    with pytest.raises(ImportError):
        import PyTorchUtils
    host.add_torch_extension()
    host.packages.missing = {"torch"}
    import PyTorchUtils

    logic = PyTorchUtils.PyTorchUtilsLogic()
    assert not logic.torchInstalled()
    host.packages.fails = RuntimeError("no network")
    with pytest.raises(RuntimeError, match="no network"):
        logic.installTorch(askConfirmation=True, torchVersionRequirement=">=2.0")
    assert host.packages.installed == []


def test_an_older_slicer_has_no_packaging(tmp_path: Path) -> None:
    older = Host(tmp_path, version="5.10.0").start()
    try:
        assert not hasattr(slicer, "packaging")
        slicer.util.pip_install("monai")
        assert older.packages.installed == ["monai"]
    finally:
        older.stop()
    assert getattr(slicer, "mrmlScene", None) is None
    with pytest.raises(ImportError):
        import qt  # noqa: F401


def test_picture_of_a_panel_is_light_or_dark_and_shows_text(host: Host, tmp_path: Path) -> None:
    import qt

    widget = small_ui(tmp_path)
    brightness = []
    for dark in (False, True):
        image = qt.QImage(str(grab.save(widget, tmp_path / f"{dark}.png", width=300, height=200, dark=dark)))
        assert (image.width(), image.height()) == (300, 200)
        gray = [[image.pixelColor(x, y).lightness() for x in range(0, 300, 3)] for y in range(0, 200, 3)]
        brightness.append(float(np.mean(gray)))
        assert np.ptp(gray) > 100  # letters, in a contrast that can be read
    assert brightness[0] > 200 > 100 > brightness[1]
    widget.deleteLater()
