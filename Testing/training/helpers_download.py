"""A server like Zenodo with every bad habit, and what a download from it must leave."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from CovidSegTraining.experiment.download import ARCHIVES, download
from CovidSegTraining.experiment.transfer import Patience

CT, MASK = ARCHIVES
HURRIED = Patience(tries=3, pause_s=0.0, timeout_s=5.0)
CASES = ["coronacases_001", "coronacases_007", "radiopaedia_10_85902_1"]
CT_NAMES = ["coronacases_org_001", "coronacases_org_case007", "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm"]


def content_of(case: str, kind: str) -> bytes:
    """Return bytes that belong to a case; they do not shrink in a zip, as images in `.nii.gz` do not."""
    return np.random.default_rng([*case.encode(), *kind.encode()]).bytes(3000)


def zip_of(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


@dataclass
class FakeZenodo:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        files: Name to bytes.
        changes: Name to changed entries of the record.
        break_after: Name to bytes after which each answer breaks off.
        stalls: Answers that begin and then wait, so many.
        statuses: Answers that are only this status; the first is used up first.
        asked: Path's last part and the `Range` of each request.
    """

    files: dict[str, bytes]
    address: str = ""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    break_after: dict[str, int] = field(default_factory=dict)
    ignores_range: bool = False
    content_range: str | None = None
    stalls: int = 0
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        entries = [
            {
                "key": name,
                "size": len(content),
                "checksum": "md5:" + hashlib.md5(content).hexdigest(),
                "links": {"self": f"{self.address}/api/records/3757476/files/{name}/content/{name}"},
                **self.changes.get(name, {}),
            }
            for name, content in self.files.items()
        ]
        return {"id": 3757476, "files": entries}

    def asked_for(self, name: str) -> list[str | None]:
        return [asked for path, asked in self.asked if path == name]


@contextmanager
def running_zenodo() -> Iterator[FakeZenodo]:
    """Run a server with three cases, and a file that nobody needs."""
    state = FakeZenodo(
        files={
            CT: zip_of({f"{n}.nii.gz": content_of(case, "ct") for n, case in zip(CT_NAMES, CASES, strict=True)}),
            MASK: zip_of({f"masks/{case}.nii.gz": content_of(case, "mask") for case in CASES} | {"readme.txt": b"x"}),
            "Lung_Mask.zip": b"not fetched",
        }
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, state: FakeZenodo) -> None:
    name, asked = request.path.rpartition("/")[2], request.headers.get("Range")
    state.asked.append((name, asked))
    if state.statuses:
        request.send_error(state.statuses.pop(0))
        return
    if name == "3757476":
        body = json.dumps(state.record()).encode()
    elif name in state.files:
        body = state.files[name]
    else:
        request.send_error(404)
        return
    begin = 0
    if asked and not state.ignores_range:
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        request.send_response(206)
        told = state.content_range or f"bytes {begin}-{len(body) - 1}/{len(body)}"
        request.send_header("Content-Range", told)
    else:
        request.send_response(200)
    request.send_header("Content-Length", str(len(body) - begin))
    request.end_headers()
    if state.stalls and name in state.files:
        state.stalls -= 1
        time.sleep(0.5)
    end = min(len(body), begin + state.break_after.get(name, len(body)))
    request.wfile.write(body[begin:end])


def fetch_cases(zenodo: FakeZenodo, folder: Path, *, patience: Patience = HURRIED) -> list[str]:
    return download(folder, host=zenodo.address, patience=patience, tell=lambda text: None)


def laid_out(folder: Path) -> list[str]:
    """Return all that is in the folder but archives and record."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("archives", "record.json"))


def assert_complete(folder: Path) -> None:
    assert laid_out(folder) == CASES
    for case in CASES:
        assert sorted(path.name for path in (folder / case).iterdir()) == ["imaging.nii.gz", "segmentation.nii.gz"]
        assert (folder / case / "imaging.nii.gz").read_bytes() == content_of(case, "ct")
        assert (folder / case / "segmentation.nii.gz").read_bytes() == content_of(case, "mask")
