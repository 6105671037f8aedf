"""Windows that wait for the user: nobody is there, so each is recorded and answered by the test's script.

A question without a scripted answer is an error, because in the application it would wait for ever.
A message that has only an OK button is answered by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from host_errors import HostError
from PySide6.QtWidgets import QDialog, QFileDialog, QInputDialog, QMenu, QMessageBox

ONLY_OK = (QMessageBox.StandardButton.Ok, QMessageBox.StandardButton.NoButton)


@dataclass(frozen=True)
class Shown:
    """A window that was shown.

    Attributes:
        kind: "message", "dialog", "menu", or the static function's name, for example "getSaveFileName".
        text: What it says.
        details: Its detailed text (traceback and the like).
        buttons: The standard buttons of a message.
        icon: The icon of a message.
        window: The Qt object, None for static functions; it may be deleted by now.
        start: Where a file dialog begins.
    """

    kind: str
    text: str
    details: str = ""
    buttons: Any = None
    icon: Any = None
    window: Any = field(default=None, repr=False)
    start: str = ""


class Dialogs:
    """What was shown, and what is answered next."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self._answers: deque[Any] = deque()

    def answer(self, *answers: Any) -> None:
        """Answer the next windows, in this order.

        A button's name ("Yes", "Cancel") or text for a message, a path for a file dialog, a function for a
        dialog or menu (it gets the window, works in it, and returns the result of `exec`).
        """
        self._answers.extend(answers)

    @property
    def last(self) -> Shown:
        """The window shown last."""
        if not self.shown:
            raise HostError("no dialog was shown")
        return self.shown[-1]

    @property
    def unused(self) -> list[Any]:
        """Answers that nobody asked for."""
        return list(self._answers)

    def show(self, shown: Shown) -> Any:
        """Record a window and return its scripted answer."""
        self.shown.append(shown)
        if not self._answers:
            if shown.kind == "message" and shown.buttons in ONLY_OK:
                return QMessageBox.StandardButton.Ok
            raise HostError(f"a {shown.kind} waits for an answer that the test does not give: {shown.text!r}")
        answer = self._answers.popleft()
        if callable(answer):
            answer = answer(shown.window)
        return _press(answer, shown) if shown.kind == "message" else answer

    def patches(self) -> list[tuple[Any, str, Any]]:
        """Return (class, attribute, replacement) for everything in Qt that would wait for the user."""
        patches: list[tuple[Any, str, Any]] = []
        for name in ("exec", "exec_"):
            patches.append((QDialog, name, lambda window: self.show(_dialog(window))))
            patches.append((QMessageBox, name, lambda window: self.show(_message(window))))
            patches.append((QMenu, name, lambda window, *at: self.show(Shown("menu", window.title, window=window))))
        for name in ("information", "question", "warning", "critical", "about"):
            patches.append((QMessageBox, name, staticmethod(self._static_message())))
        for name in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"):
            patches.append((QFileDialog, name, staticmethod(self._static(name))))
        for name in ("getText", "getInt", "getDouble", "getItem", "getMultiLineText"):
            patches.append((QInputDialog, name, staticmethod(self._static(name))))
        return patches

    def _static_message(self) -> Callable[..., Any]:
        def message(
            parent: Any, title: str, text: str, buttons: Any = QMessageBox.StandardButton.Ok, *rest: Any
        ) -> Any:
            return self.show(Shown("message", text, buttons=buttons))

        return message

    def _static(self, name: str) -> Callable[..., Any]:
        def ask(parent: Any = None, title: str = "", start: Any = "", *rest: Any, **more: Any) -> Any:
            return self.show(Shown(name, title, start=str(start)))

        return ask


def _press(answer: Any, shown: Shown) -> Any:
    """Press a button of a message, given by its text or by the name of a standard button; return its value."""
    if shown.window is not None:
        for button in shown.window.buttons():
            if answer in (button.text.replace("&", ""), shown.window.standardButton(button).name):
                button.click()
                return shown.window.standardButton(button)
    elif answer in QMessageBox.StandardButton.__members__ and QMessageBox.StandardButton[answer] & shown.buttons:
        return QMessageBox.StandardButton[answer]
    raise HostError(f"the message has no button {answer!r}: {shown.text!r}")


def _message(window: Any) -> Shown:
    text = "\n".join(part for part in (window.text, window.informativeText) if part)
    return Shown("message", text, window.detailedText, window.standardButtons, window.icon, window)


def _dialog(window: Any) -> Shown:
    return Shown("dialog", window.windowTitle, window=window)
