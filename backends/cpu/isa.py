"""Instruction-set levels of the cpu target: those of this machine, and those asked for."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from qcompiler.backends.native.levels import Feature, Isa
from qcompiler.backends.native.toolchain import accepts
from qcompiler.errors import QCompilerError

BEST, ALL = "best", "all"
VARIABLE = "QCOMPILER_ISA"

_EBX, _ECX, _EAX = 1, 2, 0
_YMM, _ZMM = 0x06, 0xE6
_AVX2 = (
    Feature("avx2", "avx2", 7, 0, _EBX, 5, _YMM),
    Feature("fma", "fma", 1, 0, _ECX, 12, _YMM),
)
_AVX512 = (
    *_AVX2,
    Feature("avx512f", "avx512f", 7, 0, _EBX, 16, _ZMM),
    Feature("avx512bw", "avx512bw", 7, 0, _EBX, 30, _ZMM),
    Feature("avx512dq", "avx512dq", 7, 0, _EBX, 17, _ZMM),
    Feature("avx512vl", "avx512vl", 7, 0, _EBX, 31, _ZMM),
    Feature("avx512_vnni", "avx512vnni", 7, 0, _ECX, 11, _ZMM),
)

LEVELS: tuple[Isa, ...] = (
    Isa("portable", ()),
    Isa("avx2", _AVX2),
    Isa("avxvnni", (*_AVX2, Feature("avx_vnni", "avxvnni", 7, 1, _EAX, 4, _YMM))),
    Isa("avx512vnni", _AVX512),
    Isa("avx512vbmi", (*_AVX512, Feature("avx512vbmi", "avx512vbmi", 7, 0, _ECX, 1, _ZMM))),
)
_BY_NAME = {isa.name: isa for isa in LEVELS}


@cache
def cpu_features() -> frozenset[str]:
    """Returns the feature names of this machine's processor; empty where they are unknown.

    Linux lists there only features whose registers it keeps.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def is_supported(isa: Isa) -> bool:
    """Returns whether this machine can run a level."""
    return {feature.name for feature in isa.features} <= cpu_features()


def supported_levels() -> tuple[Isa, ...]:
    """Returns the levels that this machine can run, slowest first."""
    return tuple(isa for isa in LEVELS if is_supported(isa))


def forced_level() -> Isa | None:
    """Returns the level that the environment variable QCOMPILER_ISA forces, None without one.

    Raises:
        QCompilerError: QC0804 for an unknown level, or one that this machine lacks.
    """
    name = os.environ.get(VARIABLE, "").strip()
    if not name:
        return None
    if name not in {isa.name for isa in supported_levels()}:
        known = names(supported_levels())
        what = "which this machine lacks" if name in _BY_NAME else "which is no level"
        raise QCompilerError(
            "QC0804",
            f"{VARIABLE} is {name!r}, {what}",
            remedy=f"set it to one of {known}, or unset it",
        )
    return _BY_NAME[name]


def best_level() -> Isa:
    """Returns the fastest level that this machine runs and its compiler builds, or the forced one.

    Raises:
        QCompilerError: QC0804 for a wrong QCOMPILER_ISA, QC0801 without a compiler.
    """
    forced = forced_level()
    if forced is not None:
        return forced
    return next(isa for isa in reversed(supported_levels()) if accepts(isa))


def runnable(levels: Iterable[Isa]) -> Isa | None:
    """Returns the level among those carried that this machine would run, None without one.

    That is the forced one, else the fastest.

    Raises:
        QCompilerError: QC0804 for a wrong QCOMPILER_ISA.
    """
    carried = set(levels)
    forced = forced_level()
    if forced is not None:
        return forced if forced in carried else None
    return next((isa for isa in reversed(supported_levels()) if isa in carried), None)


def wanted_levels(text: str) -> tuple[Isa, ...]:
    """Returns the levels, slowest first, of names joined by ``+``; ``best`` and ``all`` are names.

    Raises:
        QCompilerError: QC0502 for an unknown name, QC0804 for a wrong QCOMPILER_ISA, QC0801 for
            ``best`` without a compiler.
    """
    parts = text.split("+")
    for name in parts:
        if name not in (*_BY_NAME, BEST, ALL):
            raise QCompilerError(
                "QC0502",
                f"there is no instruction-set level {name!r}",
                remedy=f"join by + any of {names(LEVELS)}, {BEST}, {ALL}",
            )
    if ALL in parts:
        return LEVELS
    return named_levels(best_level().name if name == BEST else name for name in parts)


def parse_levels(text: str) -> tuple[Isa, ...]:
    """Returns the levels to build, slowest first; of ``all``, those that the compiler can build.

    Raises:
        QCompilerError: as ``wanted_levels``, and QC0804 for a level that the compiler cannot build,
            and when this machine has none of them.
    """
    wanted = wanted_levels(text)
    chosen = tuple(isa for isa in wanted if accepts(isa))
    if chosen != wanted and wanted != LEVELS:
        raise QCompilerError(
            "QC0804",
            f"the C compiler cannot build {names(isa for isa in wanted if isa not in chosen)}",
            remedy=f"choose among {names(filter(accepts, LEVELS))}, or set CC to another compiler",
        )
    if not any(map(is_supported, chosen)):
        raise QCompilerError(
            "QC0804",
            f"this machine lacks {names(chosen)}",
            remedy=f"add one of {names(supported_levels())}: isa={text}+{BEST}",
        )
    return chosen


def named_levels(found: Iterable[str]) -> tuple[Isa, ...]:
    """Returns the known levels among names, slowest first."""
    wanted = set(found)
    return tuple(isa for isa in LEVELS if isa.name in wanted)


def names(levels: Iterable[Isa]) -> str:
    """Returns the names of levels as a list in words."""
    return ", ".join(isa.name for isa in levels)
