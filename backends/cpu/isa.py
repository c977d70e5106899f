"""Instruction-set levels of the cpu target, and which of them this machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Isa:
    """One level: the features that it needs (as in /proc/cpuinfo) and the compiler flags it uses.

    Attributes:
        kernel_rows: rows of the main accumulator tile.
        dot_macs: 8-bit multiply-accumulates of one vector instruction.
    """

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]
    kernel_rows: int
    dot_macs: int


def _flags(*features: str) -> tuple[str, ...]:
    return tuple(f"-m{name}" for name in features)


_AVX512 = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni")
_AVX512_FEATURES = frozenset(name.replace("vnni", "_vnni") for name in _AVX512)

LEVELS: tuple[Isa, ...] = (
    Isa("portable", frozenset(), (), 4, 1),
    Isa("avx2", frozenset({"avx2"}), _flags("avx2"), 4, 16),
    Isa("avx512vnni", _AVX512_FEATURES, _flags(*_AVX512), 6, 64),
    Isa(
        "avx512vbmi",
        _AVX512_FEATURES | {"avx512vbmi"},
        _flags(*_AVX512, "avx512vbmi"),
        6,
        64,
    ),
)


@cache
def cpu_features() -> frozenset[str]:
    """Returns the feature names of this machine's processor; empty where they are unknown."""
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


def supported_levels() -> tuple[Isa, ...]:
    """Returns the levels that this machine can run, slowest first."""
    return tuple(isa for isa in LEVELS if isa.features <= cpu_features())


def best_level() -> Isa:
    """Returns the fastest level that this machine can run."""
    return supported_levels()[-1]


def level(name: str) -> Isa:
    """Returns the level of the given name; raises KeyError."""
    return {isa.name: isa for isa in LEVELS}[name]
