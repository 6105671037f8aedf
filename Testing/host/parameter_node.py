"""`slicer.parameterNodeWrapper`: typed parameters in a `vtkMRMLScriptedModuleNode`, bound to widgets.

A stand-in with the documented behaviour: every value is stored in the node, so that a saved scene restores it;
a value outside its range is refused; `connectGui` binds widgets by the dynamic property SlicerParameterName.
"""

from __future__ import annotations

import typing
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from gui_connectors import Connector, connector
from parameter_kinds import Choice, Decimals, Default, Maximum, Minimum, Parameter, SingleStep, WithinRange
from PySide6 import QtCore

RESERVED = {"parameterNode", "default", "dataType", "isCached", "getValue", "setValue", "connectGui", "disconnectGui"}


class _Wrapper:
    """What every class made by `parameterNodeWrapper` can do.

    Values are cached, as in Slicer: they are read again when the node says that it was modified.
    """

    allParameters: dict[str, Parameter]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        own: dict[str, Any] = {"parameterNode": parameterNode, "_guis": {}, "_guis_made": 0, "_showing": False}
        self.__dict__.update(own, _values={}, _observer=None)
        self._read_again()
        me = weakref.ref(self)
        tag = parameterNode.AddObserver("ModifiedEvent", lambda *_: (found := me()) and found._read_again())
        weakref.finalize(self, parameterNode.RemoveObserver, tag)

    def getValue(self, name: str) -> Any:
        """Return a parameter's value."""
        return self._values[self._parameter(name).name]

    def setValue(self, name: str, value: Any) -> None:
        """Set a parameter's value."""
        parameter = self._parameter(name)
        with self._modify():
            parameter.write(self.parameterNode, value)
            self._values[name] = parameter.read(self.parameterNode)

    def _read_again(self) -> None:
        for name, parameter in self.allParameters.items():
            self._values[name] = parameter.read(self.parameterNode)

    def default(self, name: str) -> Default:
        """Return a parameter's default."""
        return Default(self._parameter(name).default)

    def dataType(self, name: str) -> Any:
        """Return a parameter's type, with annotations."""
        return self._parameter(name).hint

    def isCached(self, name: str) -> bool:
        """Return whether a parameter's value is cached."""
        return bool(self._parameter(name))

    def connectGui(self, gui: Any) -> int:
        """Bind the widgets that have the property SlicerParameterName; return a tag, as Slicer does since 5.10."""
        widgets = gui.findChildren(QtCore.QObject) if hasattr(gui, "isWidgetType") else list(vars(gui).values())
        named = {w.property("SlicerParameterName"): w for w in widgets if w.property("SlicerParameterName")}
        return self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind widgets by parameter name; return a tag for `disconnectGui`."""
        bound: dict[str, tuple[Connector, Callable[[], None]]] = {}
        for name, widget in mapping.items():
            parameter = self._parameter(name)
            link = connector(widget, kind=parameter.kind, annotations=parameter.annotations)
            link.write(self.getValue(name))
            bound[name] = (link, link.connect(lambda name=name, link=link: self._from_gui(name, link)))
        tag = self._guis_made
        self.__dict__["_guis_made"] += 1
        self._guis[tag] = bound
        if self._observer is None:
            event = "ModifiedEvent"
            self.__dict__["_observer"] = self.parameterNode.AddObserver(event, lambda *_: self._to_gui())
        return tag

    def disconnectGui(self, tag: int) -> None:
        """End what `connectParametersToGui` began; an unknown tag, also None, is ignored, as in Slicer."""
        for _link, end in self._guis.pop(tag, {}).values():
            end()
        if not self._guis and self._observer is not None:
            self.parameterNode.RemoveObserver(self._observer)
            self.__dict__["_observer"] = None

    def StartModify(self) -> Any:
        return self.parameterNode.StartModify()

    def EndModify(self, was_modified: Any) -> Any:
        return self.parameterNode.EndModify(was_modified)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> Any:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: Any) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def _parameter(self, name: str) -> Parameter:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return self.allParameters[name]

    def _from_gui(self, name: str, link: Connector) -> None:
        if not self._showing:
            self.setValue(name, link.read())

    def _to_gui(self) -> None:
        if self._showing:
            return
        self.__dict__["_showing"] = True
        try:
            with self._modify():
                for bound in list(self._guis.values()):
                    for name, (link, _end) in bound.items():
                        link.write(self.getValue(name))
        finally:
            self.__dict__["_showing"] = False

    @contextmanager
    def _modify(self) -> Any:
        state = self.parameterNode.StartModify()
        try:
            yield
        finally:
            self.parameterNode.EndModify(state)


def parameterNodeWrapper(cls: Any = None) -> Any:
    """Turn a class with annotations into a wrapper of a parameter node."""
    if cls is None:
        return parameterNodeWrapper
    parameters = {}
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if name in RESERVED:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        parameters[name] = Parameter(name, hint, default=vars(cls).get(name))
        members[name] = property(
            lambda self, name=name: self.getValue(name), lambda self, value, name=name: self.setValue(name, value)
        )
    return type(cls.__name__, (_Wrapper,), members | {"allParameters": parameters, "_is_parameter_node_wrapper": True})


def isParameterNodeWrapper(candidate: Any) -> bool:
    """Return whether a class or object is a parameter node wrapper."""
    return getattr(candidate, "_is_parameter_node_wrapper", False)


def make_module() -> ModuleType:
    """Return `slicer.parameterNodeWrapper`."""
    module = ModuleType("slicer.parameterNodeWrapper", __doc__)
    exported = (Choice, Decimals, Default, Maximum, Minimum, SingleStep, WithinRange)
    for entry in (*exported, parameterNodeWrapper, isParameterNodeWrapper):
        setattr(module, entry.__name__, entry)
    return module
