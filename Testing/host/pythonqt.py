"""PySide6 with the manners of PythonQt, the binding that Slicer uses.

`install` changes the PySide6 classes once per process, so that objects made by Qt itself (header views,
actions, layouts) behave like those made in Python, and `type(widget) == qt.QPushButton` holds:

- Qt properties are attributes: `button.text`, `button.enabled = False`; `name` is `objectName`;
- `object.connect("clicked(bool)", function)` and `disconnect`, beside `object.clicked.connect(function)`;
  a function that takes fewer arguments than the signal has gets the first ones; what is no function gets all;
- an unknown property, method or signal is an error, on reading and on writing; so is a Qt object that is
  touched from a thread it does not live in.

Stand-ins written in Python name their C++ signals in `SIGNALS` (signature -> attribute), since PySide6
cannot declare `vtkMRMLNode*`.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from host_errors import HostAttributeError, HostError
from PySide6 import QtCore, QtGui, QtWidgets

METHODS_NOT_PROPERTIES = {"singleShot"}
"""Qt properties that stay methods: `qt.QTimer.singleShot(0, function)` is what people write."""

ALIASES = {"name": "objectName"}

_original_getattribute = QtCore.QObject.__getattribute__
_property = QtCore.QObject.property
_set_property = QtCore.QObject.setProperty
_reading: set[tuple[int, str]] = set()


def install() -> None:
    """Give all Qt classes PythonQt's manners; a second call changes nothing."""
    if QtCore.QObject.__getattribute__ is _getattribute:
        return
    _make_singletons_immortal()
    QtCore.QObject.__getattribute__ = _getattribute
    for module in (QtCore, QtGui, QtWidgets):
        for value in [getattr(module, name) for name in dir(module)]:  # dir, not vars: PySide6 loads lazily
            if isinstance(value, type) and issubclass(value, QtCore.QObject):
                value.__setattr__ = _setattr
                assert value.__dict__["__setattr__"] is _setattr


def signals_of(cls: type) -> dict[str, str]:
    """Return signature -> attribute of the signals that a stand-in declares for C++ signatures."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found.update(base.__dict__.get("SIGNALS", {}))
    return found


def connect(sender: QtCore.QObject, signature: str, function: Callable[..., Any]) -> bool:
    """Connect a signal, by its C++ signature, to a function.

    Raises:
        HostError: The sender has no such signal, or `function` cannot be called.
    """
    if not callable(function):
        raise HostError(f"{type(sender).__name__}.{signature}: {function!r} cannot be called")
    arity = _arity(function)
    count = _argument_count(signature)
    take = count if arity is None else min(count, arity)

    def relay(*arguments: Any) -> None:
        function(*arguments[:take])

    _signal(sender, signature).connect(relay)
    _relays(sender).setdefault((_normal(signature), function), []).append(relay)
    return True


def disconnect(sender: QtCore.QObject, signature: str, function: Callable[..., Any]) -> bool:
    """Undo `connect`; HostError if there was no such connection."""
    relays = _relays(sender).get((_normal(signature), function))
    if not relays:
        raise HostError(f"{type(sender).__name__}.{signature} is not connected to {function!r}")
    _signal(sender, signature).disconnect(relays.pop())
    return True


def qt_properties(cls: type) -> frozenset[str]:
    """Return the names of the Qt properties of a class."""
    return _properties(cls)


def is_known(target: QtCore.QObject, name: str) -> bool:
    """Return whether an object has this property, method or signal."""
    try:
        getattr(target, name)
    except AttributeError:
        return False
    return True


def _make_singletons_immortal() -> None:
    """Do for None, True and False what Python does itself from 3.12 on.

    PySide6 6.12 relies on it: on Python 3.11 every call that returns one of them takes a reference too many
    (measured), and after some hundred of them the interpreter dies.
    """
    if sys.version_info < (3, 12):
        for singleton in (None, True, False, NotImplemented, Ellipsis):
            ctypes.c_ssize_t.from_address(id(singleton)).value += 1 << 40


def _getattribute(self: QtCore.QObject, name: str) -> Any:
    if name.startswith("__"):
        return _original_getattribute(self, name)
    _check_thread(self, name)
    name = ALIASES.get(name, name)
    cls = _original_getattribute(self, "__class__")
    if name == "className" and not _python_attribute(cls, name):
        return lambda: cls.__name__
    if name in ("connect", "disconnect") and not _python_attribute(cls, name):
        action = connect if name == "connect" else disconnect
        return lambda signature, function: action(self, signature, function)
    if name in _properties(cls) and name not in METHODS_NOT_PROPERTIES and not _python_attribute(cls, name):
        key = (id(self), name)
        if key not in _reading:  # Qt itself may look for an override of a virtual function of this name
            _reading.add(key)
            try:
                return _property(self, name)
            finally:
                _reading.discard(key)
    try:
        return _original_getattribute(self, name)
    except AttributeError:
        if name.startswith("_") or _is_looked_for_by_qt(name):
            raise
        raise HostAttributeError(f"{cls.__name__} has no property, method or signal '{name}'") from None


def _setattr(self: QtCore.QObject, name: str, value: Any) -> None:
    _check_thread(self, name)
    name = ALIASES.get(name, name)
    cls = type(self)
    descriptor = _python_attribute(cls, name)
    if hasattr(descriptor, "__set__"):
        descriptor.__set__(self, value)
    elif name in _properties(cls):
        _write(self, name, value)
    elif cls.__module__.startswith("PySide6."):
        raise HostAttributeError(f"{cls.__name__} has no property '{name}' that could be set")
    else:  # a class written in Python has attributes of its own
        self.__dict__[name] = value


def _write(target: QtCore.QObject, name: str, value: Any) -> None:
    meta = QtCore.QObject.metaObject(target)
    entry = meta.property(meta.indexOfProperty(name))
    if not entry.isWritable():
        raise HostAttributeError(f"{type(target).__name__}.{name} is read-only")
    if isinstance(value, bool) != (entry.typeName() == "bool") and entry.typeName() in ("bool", "QString"):
        raise HostError(f"{type(target).__name__}.{name} is {entry.typeName()}, not {value!r}")
    if not _set_property(target, name, value):
        raise HostError(f"{type(target).__name__}.{name} cannot be {value!r}")


def _check_thread(target: QtCore.QObject, name: str) -> None:
    # Not `QObject.thread`: PySide makes the thread a child of the object asked, deletes it with that now and then, and
    # Qt then crashes when the process ends. All of a panel lives in the main thread.
    if threading.current_thread() is not threading.main_thread() and not isinstance(target, QtCore.QThread):
        raise HostError(f"{type(target).__name__}.{name} was touched from a thread in which it does not live")


@cache
def _properties(cls: type) -> frozenset[str]:
    meta = cls.staticMetaObject
    return frozenset(meta.property(index).name() for index in range(meta.propertyCount()))


@cache
def _python_attribute(cls: type, name: str) -> Any:
    """Return what a class written in Python says about a name, else None."""
    for base in cls.__mro__:
        if not base.__module__.startswith(("PySide6.", "Shiboken", "shiboken6")) and name in base.__dict__:
            return base.__dict__[name] if base is not object else None
    return None


@cache
def _is_looked_for_by_qt(name: str) -> bool:
    """Return whether Qt asks Python objects for this name, to find overrides of virtual functions."""
    return any(hasattr(base, name) for base in (QtWidgets.QWidget, QtWidgets.QLayout, QtGui.QAction, QtCore.QTimer))


def _signal(sender: QtCore.QObject, signature: str) -> Any:
    normal = _normal(signature)
    attribute = signals_of(type(sender)).get(normal)
    if attribute is not None:
        return _original_getattribute(sender, attribute)
    meta = QtCore.QObject.metaObject(sender)
    index = meta.indexOfSignal(normal)
    if index < 0:
        raise HostError(f"{type(sender).__name__} has no signal {signature}")
    name, _, arguments = normal.partition("(")
    signal = _original_getattribute(sender, name)
    try:
        return signal[arguments.rstrip(")")] if arguments != ")" else signal
    except (IndexError, KeyError):
        return signal


def _relays(sender: QtCore.QObject) -> dict[Any, list[Any]]:
    relays: dict[Any, list[Any]] = sender.__dict__.setdefault("_relays", {})
    return relays


def _normal(signature: str) -> str:
    if not signature.endswith(")") or "(" not in signature:
        raise HostError(f"'{signature}' is no signature; a signal is written like clicked(bool)")
    return bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode()


def _argument_count(signature: str) -> int:
    arguments = signature.partition("(")[2].rstrip(")").strip()
    return len(arguments.split(",")) if arguments else 0


def _arity(function: Callable[..., Any]) -> int | None:
    """Return how many arguments PythonQt gives a function, at most; None if all that the signal has.

    It counts those of functions and of their methods, also the ones with a default; of anything else that can be
    called, such as `functools.partial`, it knows nothing.
    """
    bound = 1 if inspect.ismethod(function) else 0
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return None
    return int(code.co_argcount) - bound
