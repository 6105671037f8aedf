"""Memory kept during the network's run: fewer page faults, given back afterwards, harmless elsewhere."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from CovidSegLib import allocator
from CovidSegLib.allocator import freed_memory_kept

ENGINE = Path(__file__).resolve().parents[2] / "CovidSeg"
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# In a process of its own: the settings act on the whole process.
SCRIPT = """
import resource
from CovidSegLib.allocator import freed_memory_kept

MIB = 1024 * 1024

def faults_of_blocks(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        block = bytearray(b"x") * (80 * MIB)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mib():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / MIB

plain = faults_of_blocks(10)
with freed_memory_kept():
    faults_of_blocks(1)
    kept = faults_of_blocks(10)
    during = resident_mib()
print(plain, kept, during - resident_mib(), faults_of_blocks(10))
"""


@needs_glibc
def test_freed_blocks_are_used_again_and_given_back_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    plain, kept, given_back_mib, after = (float(value) for value in done.stdout.split())
    assert plain > 1000  # of 4 KiB or larger pages; 10 blocks of 80 MiB
    assert kept < plain / 20
    assert given_back_mib > 70
    assert after > plain / 2  # and the process is as it was


@needs_glibc
def test_error_inside_leaves_and_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def set_option(option: int, value: int) -> int:
        calls.append((option, value))
        return 1

    def give_back(pad: int) -> int:
        calls.append((pad,))
        return 1

    monkeypatch.setattr(allocator, "_glibc", lambda: (set_option, give_back))
    with pytest.raises(KeyError), freed_memory_kept():
        raise KeyError
    assert calls[0] == (allocator.M_MMAP_MAX, 0)
    assert (allocator.M_MMAP_MAX, 65536) in calls[2:]
    assert calls[-1] == (0,)


def test_nothing_is_done_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert allocator._glibc.__wrapped__() is None
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator._glibc.__wrapped__() is None
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with freed_memory_kept():
        pass
