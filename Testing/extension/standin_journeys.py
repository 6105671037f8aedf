"""Run the launcher and its journeys on the stand-in host: python standin_journeys.py [OPTIONS OF PYTEST].

Saving and loading a scene goes through the host, which has Slicer's scene but not its file dialogs' manager.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

TESTING = Path(__file__).resolve().parents[1]


def main(options: list[str]) -> int:
    """Return the launcher's code; not 0 either if a callback of Qt or VTK failed."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    for folder in (TESTING / "slicer", TESTING / "host", TESTING.parent / "CovidSeg"):
        sys.path.insert(0, str(folder))
    import run_in_slicer
    from slicer import util
    from standin import Host

    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder)).start()
        panel = host.open_panel()
        util.saveScene = lambda path: host.save_scene(Path(path)) or True
        util.loadScene = lambda path: host.load_scene(Path(path))
        try:
            code = run_in_slicer.main(["--", *options])
            host.close_panel(panel)
        finally:
            host.stop()
    print("\n".join(host.errors))
    return code or int(bool(host.errors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
