"""How many threads a call uses: asked for by the environment, or one per physical core."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

from qcompiler.errors import QCompilerError

VARIABLE = "QCOMPILER_NUM_THREADS"
# More are a slip: each is a thread of the system with a stack of its own.
MOST_THREADS = 1024

_CPUS = Path("/sys/devices/system/cpu")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def check_threads(threads: object, source: str) -> int:
    """Returns a number of threads given as an int or as text.

    Raises:
        QCompilerError: QC0702 naming the source when it is no whole number from 1 to 1024.
    """
    number = threads
    if isinstance(threads, str) and threads.strip().isdecimal():
        number = int(threads.strip()[: len(str(MOST_THREADS)) + 1])
    if not _is_count(number) or number > MOST_THREADS:
        raise QCompilerError(
            "QC0702",
            f"{source} is {threads!r}",
            remedy=f"give a whole number from 1 to {MOST_THREADS}; this process may use"
            f" {available_cores()}",
        )
    return number


def check_rounds(rounds: object) -> int:
    """Returns how often something is measured.

    Raises:
        QCompilerError: QC0702 when it is no whole number of at least 1.
    """
    if not _is_count(rounds):
        raise QCompilerError(
            "QC0702", f"rounds is {rounds!r}", remedy="give a whole number of at least 1"
        )
    return rounds


def _is_count(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def default_threads() -> int:
    """Returns what QCOMPILER_NUM_THREADS says, else the number of available physical cores.

    Raises:
        QCompilerError: QC0702 when the variable holds no whole number from 1 to 1024. One without
            text counts as unset.
    """
    given = os.environ.get(VARIABLE, "").strip()
    return check_threads(given, VARIABLE) if given else available_cores()


def available_cores() -> int:
    """Returns how many physical cores this process may use, at least 1.

    These are the cores under its affinity, limited by the CPU quota of its control groups. Two
    hardware threads of one core count once: the kernels keep the vector units of a core busy.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas())]))


def _core_of(cpu: int) -> str:
    """Returns the same text for all hardware threads of a core; the CPU's own where unknown."""
    siblings = _read(_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return siblings or str(cpu)


def _quotas() -> Iterable[float]:
    """Yields the CPUs' worth of time that each control group of this process allows.

    Control groups version 2 keep quota and period of a group in ``cpu.max``, version 1 in two
    files; the limits of all groups above hold as well (Linux, admin-guide/cgroup-v2, "CPU").
    """
    for line in _read(_OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        root = _GROUPS / "cpu" if controllers else _GROUPS
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if controllers:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                words = [_read(folder / name) for name in names]
            else:
                words = _read(folder / "cpu.max").split()
            if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
                yield int(words[0]) / int(words[1])
            if folder == root:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
