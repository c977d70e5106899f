"""NVIDIA GPUs: Triton kernels, one arena on the device, replayed as one CUDA graph."""

from __future__ import annotations

if __name__ != "qcompiler.backends.cuda":
    _problem = f"import 'qcompiler.backends.cuda', not {__name__!r}"
    raise ImportError(_problem)
