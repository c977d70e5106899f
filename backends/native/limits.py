"""Measures what a machine does at best with a library's instruction set."""

from __future__ import annotations

import ctypes

import torch

from qcompiler.target.base import Limits

# About a third of a millisecond of dot products on a core that does one per cycle.
_ROUNDS = 100_000
# Larger than the last-level cache of most machines.
_BYTES = 128 * 2**20
_PRODUCT_REPEATS, _READ_REPEATS = 100, 6


def measure_limits(library: ctypes.CDLL, threads: int) -> Limits:
    """Returns the best rates of a number of threads over some repeats, in about 0.2 seconds.

    Multiply-accumulates are those of a loop of nothing but the level's dot products of int8 values
    (``vpdpbusd``, or ``vpmaddwd`` and ``vpaddd`` where there is none) over registers; bytes are
    those of reading memory that no cache holds, in order. See kernels/peak.c.
    """
    memory = torch.ones(_BYTES, dtype=torch.uint8)
    products = _rate(library, None, _ROUNDS, threads, _PRODUCT_REPEATS)
    reading = _rate(library, memory, _BYTES, threads, _READ_REPEATS)
    return Limits(products, reading)


def _rate(
    library: ctypes.CDLL, memory: torch.Tensor | None, amount: int, threads: int, repeats: int
) -> float:
    """Returns what was done per second in the fastest repeat."""
    done = ctypes.c_int64()
    at = None if memory is None else memory.data_ptr()
    time_peak = library.qc_time_peak
    time_peak.restype = ctypes.c_int64
    number, pointer = ctypes.c_int, ctypes.c_void_p
    time_peak.argtypes = [pointer, ctypes.c_int64, number, number, pointer]
    nanoseconds = time_peak(at, amount, threads, repeats, ctypes.addressof(done))
    return float(done.value / max(nanoseconds, 1) * 1e9)
