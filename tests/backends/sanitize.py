"""Runs the kernel tests over a library that watches itself: ``python -m tests.backends.sanitize``.

The address sanitizer sees tensors through malloc: inputs with the 64 bytes after them that kernels
may read, results and scratch memory without. Of the undefined-behaviour sanitizer's checks those of
signed overflow do not apply, as -fwrapv defines it; shifts, alignment, bounds, null pointers,
pointer overflow, division and conversions from float do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = (
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-g1",
    "-O1",
)
# Of test_native_program.py only what runs whole programs: no other processes, no bad input.
KERNELS = ("products", "avxvnni", "chained", "elementwise", "movement", "edges")
PROGRAM = ("every_batch_and_thread_count", "callers_of_several_threads", "float_island")
FOLDER = Path(__file__).parent
FILES = [
    *(str(FOLDER / f"test_native_{name}.py") for name in KERNELS),
    str(FOLDER / "test_native_program.py"),
]
SELECTION = f"not test_native_program or {' or '.join(PROGRAM)}"
# A sanitizer writes to the process's error stream and ends the process.
OPTIONS = ("--capture=sys", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile")


def environment(compiler: str = "gcc") -> dict[str, str]:
    """Returns the variables of a process that builds and loads watched libraries.

    Raises:
        FileNotFoundError: gcc or its sanitizer libraries are not installed.
    """
    libraries = []
    for name in ("libasan.so", "libstdc++.so.6"):
        done = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        if not os.path.isabs(done.stdout.strip()):
            raise FileNotFoundError(name)
        libraries.append(done.stdout.strip())
    return {
        **os.environ,
        "CC": compiler,
        "QCOMPILER_CFLAGS": " ".join(FLAGS),
        "LD_PRELOAD": " ".join(libraries),
        # Python keeps memory until it exits, which is no leak of a kernel.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


if __name__ == "__main__":
    if "QCOMPILER_CFLAGS" in os.environ:
        sys.exit(pytest.main([*FILES, "-k", SELECTION, *OPTIONS, *sys.argv[1:]]))
    command = [sys.executable, "-m", "tests.backends.sanitize", *sys.argv[1:]]
    os.execve(sys.executable, command, environment())
