"""The line that says which device will be used, as soon as torch is loaded.

torch is loaded on the main thread and never unasked: it takes seconds, in which the window stands still.
"""

from __future__ import annotations

import sys
from typing import Any

from slicer.i18n import tr as _

from .dependencies import DependencyError, Missing, find_missing, load_packages
from .errors import DeviceError
from .widget_texts import duration_text
from .widget_tools import Workplace, set_role, show_text, waiting


class DeviceLine:
    """Shows the resolved device, and how long a run took on it."""

    def __init__(self, place: Workplace) -> None:
        """Work in `place`."""
        self._place, self._ui = place, place.ui
        self._asked = self._kind = self._problem = ""
        self._found: Missing | None = None
        self._ui.deviceButton.connect("clicked(bool)", self.check)
        show_text(self._ui.deviceStatusLabel, "")

    def refresh(self) -> None:
        """Show the chosen device, as far as it is known."""
        if self._place.parameters is None:
            return
        loaded = torch_is_loaded()
        self._ui.deviceButton.visible = not loaded and not self._missing() and not self._problem
        if self._problem:
            self._answer("", problem=self._problem)
        elif self._missing().torch and not loaded:
            self._answer(_("PyTorch is not installed yet. CovidSeg asks before it is fetched."), problem="")
        elif not loaded:
            self._answer(_("Known once PyTorch is loaded."), problem="")
        elif self._place.parameters.device.value != self._asked:
            self._ask()
        else:
            self._show()

    def look_again(self) -> None:
        """Look again for packages, which may have been installed or changed meanwhile."""
        self._found = None
        self._asked = self._problem = ""
        self.refresh()

    def check(self) -> None:
        """Load torch and show the device."""
        with waiting():
            load_packages()
        self.look_again()

    def remember(self, runtime: dict[str, Any]) -> None:
        """Keep how long a run took on its device."""
        import qt

        if runtime.get("device") and runtime.get("seconds"):
            key = _settings_key(str(runtime["device"]).partition(":")[0], mode=str(runtime["mode"]))
            qt.QSettings().setValue(key, f"{runtime['seconds']:.1f}")
            self._show()

    def _missing(self) -> Missing:
        """Return what is not installed, looked up once: it takes a moment."""
        if self._found is None:
            try:
                self._found = find_missing()
            except DependencyError as error:
                self._found, self._problem = Missing(torch=False, packages=()), str(error)
        return self._found

    def _ask(self) -> None:
        assert self._place.parameters is not None
        self._asked = self._place.parameters.device.value
        try:
            self._kind, text = ask_torch(self._asked)
        except DeviceError as error:
            self._kind = ""
            problem = _("This device is not there ({reason}). Choose Automatic.").format(reason=error)
            self._answer("", problem=problem)
        else:
            self._answer(text, problem="")

    def _answer(self, text: str, *, problem: str) -> None:
        changed = problem != self._place.device_problem
        self._place.device_text, self._place.device_problem = text, problem
        self._show()
        if changed:
            self._place.refresh()

    def _show(self) -> None:
        text = self._place.device_problem or self._place.device_text
        set_role(self._ui.deviceStatusLabel, role="error" if self._place.device_problem else "")
        took = self._took()
        show_text(self._ui.deviceStatusLabel, f"{text}; {took}" if text and took else text)

    def _took(self) -> str:
        """Return how long the last run took on this device in this mode; empty if there was none."""
        import qt

        if self._place.parameters is None or not self._kind or self._place.device_problem:
            return ""
        seconds = qt.QSettings().value(_settings_key(self._kind, mode=self._place.parameters.mode.value))
        try:
            return _("the last CT took {duration}").format(duration=duration_text(float(seconds)))
        except (TypeError, ValueError):
            return ""


def torch_is_loaded() -> bool:
    """Return whether asking torch takes no time."""
    return "torch" in sys.modules


def ask_torch(device: str) -> tuple[str, str]:
    """Return kind and description of the device that a request is resolved to.

    Raises:
        DeviceError: It is not there.
    """
    from .device import describe_device, resolve_device

    resolved = resolve_device(device)
    return resolved.partition(":")[0], describe_device(resolved)


def _settings_key(kind: str, *, mode: str) -> str:
    return f"CovidSeg/seconds/{kind}-{mode}"
