"""The line that says which device will be used, as soon as torch is loaded, and how long the chosen CT will take.

torch is loaded on the main thread, and only when the user asks: for some seconds the window does not respond.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from slicer.i18n import tr as _

from ..dependencies import DependencyError, Missing, find_missing, load_packages
from ..errors import CovidSegError, DeviceError, InputError
from ..expected_time import Processor, Rates, Work, first_rates, network_shape, planned_work
from ..geometry import Geometry
from ..readers.checks import check_geometry, check_size
from ..scenes.texts import shown
from ..scenes.volume import check_volume, geometry_of
from .texts import duration_text
from .workplace import Workplace, show_text, waiting


class DeviceLine:
    """Shows the resolved device, and how long a run will take on it."""

    def __init__(self, place: Workplace) -> None:
        """Work in `place`."""
        self._place, self._ui = place, place.ui
        self._asked = self._kind = self._text = self._problem = ""
        self._found: Missing | None = None
        self._glance = Glance()
        self._ui.deviceButton.connect("clicked(bool)", self.check)
        show_text(self._ui.deviceStatusLabel, "")

    def refresh(self) -> None:
        """Show the device that will be used, as far as it is known."""
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
        """Look for packages and device again; packages may have been installed or changed meanwhile."""
        self._found = None
        self._asked = self._problem = ""
        self.refresh()

    def check(self) -> None:
        """Load torch and show the device."""
        problem = ""
        try:
            with waiting():
                load_packages()
        except DependencyError as error:
            problem = shown(error)
        self.look_again()
        if problem:
            self._problem = problem
            self.refresh()

    def remember(self, runtime: dict[str, Any]) -> None:
        """Keep how fast a run of the chosen CT was on its device, to estimate later runs."""
        import qt

        if not runtime.get("device") or not runtime.get("stages"):
            return
        work = self._work(mode=str(runtime["mode"]))
        rates = None if work is None else Rates.measured(runtime["stages"], work=work)
        if rates is not None:
            key = self._settings_key(str(runtime["device"]).partition(":")[0], mode=str(runtime["mode"]))
            qt.QSettings().setValue(key, json.dumps(rates.to_dict()))
            self._show()

    def _missing(self) -> Missing:
        """Return the packages that are not installed; looked up once, as it takes a moment."""
        if self._found is None:
            try:
                self._found = find_missing()
            except DependencyError as error:
                self._found, self._problem = Missing(torch=False, packages=()), shown(error)
        return self._found

    def _ask(self) -> None:
        assert self._place.parameters is not None
        self._asked = self._place.parameters.device.value
        try:
            self._kind, text = ask_torch(self._asked)
        except DeviceError as error:
            self._kind = ""
            problem = _("This device is not there ({reason}). Choose Automatic.").format(reason=shown(error))
            self._answer("", problem=problem)
        else:
            self._answer(text, problem="")

    def _answer(self, text: str, *, problem: str) -> None:
        changed = problem != self._place.device_problem
        self._text, self._place.device_problem = text, problem
        self._show()
        if changed:
            self._place.refresh()

    def _show(self) -> None:
        text = self._place.device_problem or self._text
        tooltip = _("The device that will be used.")
        if text and not self._place.device_problem:
            duration, source = self._expected()
            if duration and self._kind:
                text = _("{device}, {duration}").format(device=text, duration=duration)
            elif duration:
                text = _("{text} On the processor {duration}.").format(text=text, duration=duration)
            tooltip = f"{tooltip} {source}".strip()
        show_text(self._ui.deviceStatusLabel, text, role="error" if self._place.device_problem else "")
        self._ui.deviceStatusLabel.toolTip = tooltip

    def _expected(self) -> tuple[str, str]:
        """Return how long the chosen CT will take, and what that estimate rests on; empty if it is not known."""
        assert self._place.parameters is not None
        mode, asked = self._place.parameters.mode.value, self._place.parameters.device.value
        # Before torch is asked, the processor is the only device that Automatic is sure to find.
        kind = self._kind or ("cpu" if asked in ("auto", "cpu") else "")
        work = self._work(mode=mode) if kind else None
        if work is None:
            return "", ""
        rates = self._kept_rates(kind, mode=mode)
        source = _("The time is reckoned from the last run on this computer.")
        if rates is None and kind == "cpu":
            bundle = self._place.bundle()
            processor = Processor.here(quantized=bundle.is_quantized)
            rates = first_rates(processor, width=bundle.network_config.width)
            source = _(
                "The time is a first estimate from the size of the chest in this CT and {cores} processor cores; "
                "after the first run it is reckoned from that."
            ).format(cores=processor.cores)
        if rates is None:
            return "", _("How long it takes is known after the first run on it.")
        return duration_text(rates.seconds(work, loaded=torch_is_loaded())), source

    def _work(self, *, mode: str) -> Work | None:
        """Return the amount of work of a run on the chosen CT; None without a CT that can be segmented."""
        try:
            return self._glance.work(self._place.volume(), bundle=self._place.bundle(), mode=mode)
        except (CovidSegError, ImportError):  # the button Segment says what is wrong; SciPy may not be installed yet
            return None

    def _kept_rates(self, kind: str, *, mode: str) -> Rates | None:
        """Return how fast the last run on a device in a mode was; None if there was none."""
        import qt

        try:
            return Rates.from_dict(json.loads(qt.QSettings().value(self._settings_key(kind, mode=mode))))
        except (TypeError, ValueError, KeyError):
            return None

    def _settings_key(self, kind: str, *, mode: str) -> str:
        return f"CovidSeg/rates/{kind}-{mode}-{self._place.bundle().sha256[:12]}"


class Glance:
    """The size of the chest in a CT, found once for each state of the CT, as it takes some 30 ms."""

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] = ()
        self._shape_kji: tuple[int, int, int] | None = None

    def work(self, node: Any, *, bundle: Any, mode: str) -> Work | None:
        """Return the amount of work of a run on a volume node; None if no lungs are seen in it.

        Raises:
            InputError: The volume cannot be segmented.
        """
        check_volume(node)
        geometry, _warnings = geometry_of(node)
        seen = (node.GetImageData().GetMTime(), geometry, bundle.fingerprint)
        if seen != self._seen:
            self._shape_kji = self._look(node, geometry=geometry, recipe=bundle.preprocessing)
            self._seen = seen
        if self._shape_kji is None:
            return None
        return planned_work(self._shape_kji, mode=mode, ct_voxels=node.GetImageData().GetNumberOfPoints())

    def _look(self, node: Any, *, geometry: Geometry, recipe: Any) -> tuple[int, int, int] | None:
        import slicer

        try:
            check_size(geometry.size_ijk, label=node.GetName())
            check_geometry(geometry, label=node.GetName())
            return network_shape(slicer.util.arrayFromVolume(node), geometry=geometry, recipe=recipe)
        except InputError:
            return None


def torch_is_loaded() -> bool:
    """Tell whether torch can be asked without the seconds that loading it takes."""
    return "torch" in sys.modules


def ask_torch(device: str) -> tuple[str, str]:
    """Return kind ("cpu", "cuda" or "mps") and description of the device that a requested one resolves to.

    Raises:
        DeviceError: It is not there.
    """
    from ..device import describe_device, resolve_device

    resolved = resolve_device(device)
    return resolved.partition(":")[0], shown(describe_device(resolved))
