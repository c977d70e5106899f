"""Keeps a launch that failed as a program of a few lines that compiles its kernel alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from qcompiler.backends.cuda.launch import Launch

_TEXT = '''"""Compiles {kernel}, which computes {node}: python {name} [sm_80|sm_86|sm_89|sm_90]."""

import sys

import torch

from qcompiler.backends.cuda.aot import compile_launch
from qcompiler.backends.cuda.architectures import ARCHITECTURES
from qcompiler.backends.cuda.launch import Launch, Packed, Scratch, Stride, Value, Workspace

LAUNCH = {launch!r}

if __name__ == "__main__":
    for architecture in sys.argv[1:] or ARCHITECTURES:
        print(architecture, compile_launch(LAUNCH, ARCHITECTURES[architecture]).registers)
'''


def keep(launch: Launch) -> Path:
    """Writes a launch as Python to a file of its own and returns the path."""
    handle, path = tempfile.mkstemp(prefix=f"qcompiler-{launch.kernel}-", suffix=".py")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(
            _TEXT.format(
                kernel=launch.kernel, node=launch.node, name=Path(path).name, launch=launch
            )
        )
    return Path(path)
