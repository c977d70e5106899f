"""Finds a C compiler and builds a shared library that is the same bytes in every process."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from qcompiler.errors import QCompilerError

COMMON_FLAGS = (
    "-std=gnu11",
    "-fPIC",
    "-fvisibility=hidden",
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-ident",
    "-pthread",
)
LINK_FLAGS = ("-shared", "-pthread", "-Wl,--build-id=none")
# The GEMM tiles lose up to half their speed to register spills at -O3.
OPTIMIZATION = {"tile_avx512vnni.c": "-O2", "tile_avx2.c": "-O2", "program.c": "-O1"}
DEFAULT_OPTIMIZATION = "-O3"


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the words of its command and its version line."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """Returns the compiler of the environment variable CC, else cc, gcc or clang, else zig.

    Raises:
        QCompilerError: QC0801 when there is none.
    """
    return _probe(os.environ.get("CC", ""), os.environ.get("PATH", ""))


@lru_cache(maxsize=8)
def _probe(preferred: str, path: str) -> Compiler:
    candidates = [shlex.split(preferred)] if preferred else [["cc"], ["gcc"], ["clang"]]
    for words in candidates:
        if words and shutil.which(words[0], path=path):
            return Compiler(tuple(words), _version(words))
    if not preferred and find_spec("ziglang") is not None:
        words = [sys.executable, "-m", "ziglang", "cc"]
        return Compiler(tuple(words), _version(words))
    raise QCompilerError(
        "QC0801",
        f"no C compiler found: {preferred!r} of CC is not a command"
        if preferred
        else "no C compiler found: neither cc, gcc, clang nor the ziglang package is there",
        remedy="install a C compiler (apt install gcc) or the extra: pip install 'qcompiler[zig]'",
    )


def _version(words: Sequence[str]) -> str:
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines[0] if lines else "unknown"


def build(sources: Mapping[str, bytes], isa_flags: Sequence[str]) -> bytes:
    """Compiles and links a program for one instruction set and returns the library's bytes.

    Raises:
        QCompilerError: QC0801 without a compiler, QC0803 when it refuses the sources.
    """
    compiler = find_compiler()
    headers = tuple(sorted((n, c) for n, c in sources.items() if n.endswith(".h")))
    units = [(n, c) for n, c in sorted(sources.items()) if n.endswith(".c")]
    flags = tuple(isa_flags)

    def make(unit: tuple[str, bytes]) -> tuple[str, bytes]:
        name, content = unit
        compile_unit = _compile_program if name == "program.c" else _compile_kernel
        return name.removesuffix(".c") + ".o", compile_unit(compiler, headers, name, content, flags)

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = dict(pool.map(make, units))
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        for name, content in objects.items():
            (Path(folder) / name).write_bytes(content)
        _call(compiler, [*LINK_FLAGS, "-o", "program.so", *sorted(objects)], folder)
        return (Path(folder) / "program.so").read_bytes()


def _compile_program(
    compiler: Compiler,
    headers: tuple[tuple[str, bytes], ...],
    name: str,
    content: bytes,
    flags: tuple[str, ...],
) -> bytes:
    """Returns the object code of one C file, compiled under a relative name."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        for file_name, text in (*headers, (name, content)):
            (Path(folder) / file_name).write_bytes(text)
        optimization = OPTIMIZATION.get(name, DEFAULT_OPTIMIZATION)
        place = f"-ffile-prefix-map={folder}=."
        _call(
            compiler,
            [optimization, *COMMON_FLAGS, place, *flags, "-c", name, "-o", "unit.o"],
            folder,
        )
        return (Path(folder) / "unit.o").read_bytes()


# The kernel library is the same for every program: its objects are kept for the process.
_compile_kernel = lru_cache(maxsize=64)(_compile_program)


def _call(compiler: Compiler, arguments: Sequence[str], folder: str) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [*compiler.command, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        first = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr[:200])
        raise QCompilerError(
            "QC0803",
            f"{compiler.command[0]} failed with status {done.returncode}: {first}",
            remedy=f"check that the compiler works ({compiler.version}), or set CC to another one",
        )
