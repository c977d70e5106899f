"""Finds a C compiler and builds a shared library that is the same bytes in every process."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, Thread

from qcompiler.backends.native import object_cache
from qcompiler.backends.native.levels import (
    DISPATCH,
    KERNELS,
    PROGRAM,
    SHARED_UNITS,
    Isa,
    generated,
    names_header,
)
from qcompiler.errors import QCompilerError

LANGUAGE_FLAGS = (
    "-std=gnu11",
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-ident",
)
COMMON_FLAGS = (*LANGUAGE_FLAGS, "-fPIC", "-fvisibility=hidden", "-pthread")
LINK_FLAGS = ("-shared", "-pthread", "-Wl,--build-id=none")
# The GEMM tiles lose up to half their speed to register spills at -O3.
OPTIMIZATION = {
    "tile_avx512vnni.c": "-O2",
    "tile_avx2.c": "-O2",
    "tile_avxvnni.c": "-O2",
    "strip_avx512vnni.c": "-O2",
    "tile_neon.c": "-O2",
    "tile_dotprod.c": "-O2",
    "tile_i8mm.c": "-O2",
    "tile_helium.c": "-O2",
    "depthwise_neon.c": "-O2",
    "depthwise_dotprod.c": "-O2",
    PROGRAM: "-O1",
}
DEFAULT_OPTIMIZATION = "-O3"
# Zig builds for the processor that it runs on unless it is told not to; only zig knows the word.
_ZIG_BASELINE = "-mcpu=baseline"
# What emit() stores for a library of this process: docs/adr/0012.
_UNSIGNED = "-DQC_SIGNED_CODES=0"
_MOST_COMPILERS = 8
_PROBE = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
_LOCKS = tuple(Lock() for _ in range(64))


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the words of its command, its version, and flags of every call.

    ``flags`` come first, ``extra`` ones of the user come last; ``variable`` of the environment
    names another compiler.
    """

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    variable: str = "CC"

    @property
    def is_zig(self) -> bool:
        """Whether this is zig's driver of clang."""
        return "ziglang" in self.command or os.path.basename(self.command[0]) == "zig"


@dataclass(frozen=True)
class Unit:
    """One call of the compiler: a C file, the headers beside it, and flags."""

    name: str
    content: bytes
    headers: tuple[tuple[str, bytes], ...]
    flags: tuple[str, ...]


def find_compiler() -> Compiler:
    """Returns the compiler of the environment variable CC, else cc, gcc or clang, else zig.

    The words of QCOMPILER_CFLAGS end every call of it, linking included.

    Raises:
        QCompilerError: QC0801 when there is none or CC cannot be split into words, QC0803 when
            QCOMPILER_CFLAGS cannot.
    """
    extra = words_of("QCOMPILER_CFLAGS", "QC0803")
    preferred = words_of("CC", "QC0801")
    return _probe(os.environ.get("CC", ""), preferred, os.environ.get("PATH", ""), extra)


def words_of(variable: str, code: str) -> tuple[str, ...]:
    """Returns the words of an environment variable, split as a shell splits them.

    Raises:
        QCompilerError: with the code given, when they cannot be split.
    """
    text = os.environ.get(variable, "")
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise QCompilerError(
            code,
            f"{variable} is {text!r}: {str(error)[:1].lower()}{str(error)[1:]}",
            remedy=f"write {variable} as in a shell, with both quotes around a word, or unset it",
        ) from error


def has_compiler() -> bool:
    """Returns whether a C compiler is found; it need not work."""
    try:
        find_compiler()
    except QCompilerError:
        return False
    return True


@lru_cache(maxsize=_MOST_COMPILERS)
def _probe(
    preferred: str, preferred_words: tuple[str, ...], path: str, extra: tuple[str, ...]
) -> Compiler:
    usual: list[tuple[str, ...]] = [("cc",), ("gcc",), ("clang",)]
    candidates = [preferred_words] if preferred else usual
    if not preferred and find_spec("ziglang") is not None:
        candidates.append((sys.executable, "-m", "ziglang", "cc"))
    for words in candidates:
        if words and shutil.which(words[0], path=path):
            found = Compiler(words, version_of(words))
            baseline = (_ZIG_BASELINE,) if _accepts(found, (_ZIG_BASELINE,)) else ()
            return replace(found, flags=(*baseline, _UNSIGNED), extra=extra)
    raise QCompilerError(
        "QC0801",
        f"no C compiler found: {preferred!r} of CC is not a command"
        if preferred
        else "no C compiler found: neither cc, gcc, clang nor the ziglang package is there",
        remedy="install a C compiler (apt install gcc) or the extra: pip install 'qcompiler[zig]'",
    )


def version_of(words: Sequence[str]) -> str:
    """Returns what a compiler says of its version.

    Raises:
        QCompilerError: QC0801 when it cannot be run.
    """
    try:
        done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise QCompilerError(
            "QC0801",
            f"the C compiler {words[0]} cannot be run: {error.strerror}",
            remedy="set CC to another C compiler",
        ) from error
    return done.stdout.strip() or "unknown"


def accepts(level: Isa) -> bool:
    """Returns whether the compiler can build a level; another processor's compiler cannot.

    Raises:
        QCompilerError: QC0801 without a compiler, QC0803 for a malformed QCOMPILER_CFLAGS.
    """
    return not level.flags or _accepts(find_compiler(), level.flags, level.macros)


@lru_cache(maxsize=_MOST_COMPILERS)
def links(compiler: Compiler, flags: tuple[str, ...], text: str = _PROBE) -> bool:
    """Returns whether a compiler makes an executable; the usual text uses its C library."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        (Path(folder) / "probe.c").write_text(text, encoding="utf-8")
        done = _run(compiler, [*flags, "-o", "probe", "probe.c"], folder)
        return done.returncode == 0 and (Path(folder) / "probe").is_file()


@lru_cache(maxsize=8 * _MOST_COMPILERS)
def _accepts(compiler: Compiler, flags: tuple[str, ...], macros: tuple[str, ...] = ()) -> bool:
    """Returns whether flags are known and define the macros; some compilers only ignore flags."""
    missing = "".join(f"#ifndef {name}\n#error {name}\n#endif\n" for name in macros)
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        (Path(folder) / "probe.c").write_text(f"{missing}int probe;\n", encoding="utf-8")
        done = _run(compiler, [*flags, "-c", "probe.c", "-o", "probe.o"], folder)
        return done.returncode == 0 and (Path(folder) / "probe.o").is_file()


def build(
    sources: Mapping[str, bytes],
    levels: Sequence[Isa],
    compiler: Compiler | None = None,
    link: Sequence[str] = LINK_FLAGS,
) -> bytes:
    """Compiles and links a program with its kernels at each of the levels, given slowest first.

    Args:
        sources: C files and headers by name.
        levels: instruction sets.
        compiler: None for that of this machine.
        link: flags of the linker; those of a shared library if left out.

    Raises:
        QCompilerError: QC0801 without a compiler, QC0803 when it refuses the sources.
    """
    compiler = compiler or find_compiler()
    units = _units({**sources, **generated(sources, levels)}, levels, compiler)
    return link_units(compiler, units, link)


def link_units(
    compiler: Compiler,
    units: Sequence[Unit],
    flags: Sequence[str],
    beside: Mapping[str, bytes] | None = None,
) -> bytes:
    """Compiles units, at the same time where there are processors for it, and links them.

    Args:
        compiler: of all of them.
        units: the calls of the compiler.
        flags: of the linker.
        beside: files that these name.

    Raises:
        QCompilerError: QC0803 when the compiler refuses something.
    """
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(lambda unit: _object(compiler, unit), units))
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        names = [f"{i}.o" for i in range(len(units))]
        made = {**(beside or {}), **dict(zip(names, objects, strict=True))}
        for name, content in made.items():
            (Path(folder) / name).write_bytes(content)
        return _call(compiler, [*flags, "-o", "program", *names], folder, "program")


def shared_object(name: str, content: bytes, flags: Sequence[str] = ()) -> bytes:
    """Compiles one C file to a shared library of this machine.

    Raises:
        QCompilerError: QC0801 without a compiler, QC0803 when it refuses the file.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        (Path(folder) / name).write_bytes(content)
        arguments = ["-O2", "-fPIC", "-shared", *flags, name, "-o", "library"]
        return _call(find_compiler(), arguments, folder, "library")


def warm_up(
    sources: Mapping[str, bytes], levels: Sequence[Isa], chosen: Compiler | None = None
) -> None:
    """Compiles the kernel library at some levels in the background, for a build that comes later.

    A problem is left for that build to meet.
    """

    def compile_all() -> None:
        with suppress(QCompilerError):
            compiler = chosen or find_compiler()
            for unit in _units({**sources, **generated(sources, levels)}, levels, compiler):
                _object(compiler, unit)

    Thread(target=compile_all, name="qcompiler-warm-up", daemon=True).start()


def _units(sources: Mapping[str, bytes], levels: Sequence[Isa], compiler: Compiler) -> list[Unit]:
    """Returns the shared units, those of each level, and the program, the longest first."""
    headers = {name: content for name, content in sources.items() if name.endswith(".h")}
    renaming = {names_header(level) for level in levels}
    plain = {name: text for name, text in headers.items() if name not in renaming}
    library = {name: text for name, text in plain.items() if name != KERNELS}
    once = (*SHARED_UNITS, DISPATCH, PROGRAM)
    units = []
    for name in sorted(n for n in sources if n.endswith(".c")):
        flags: tuple[str, ...] = (OPTIMIZATION.get(name, DEFAULT_OPTIMIZATION), *COMMON_FLAGS)
        if name in once:
            beside = library if name in SHARED_UNITS else plain
            if name == PROGRAM:
                flags = (*flags, "-include", KERNELS)
            units.append(Unit(name, sources[name], tuple(sorted(beside.items())), flags))
            continue
        for level in levels:
            header = names_header(level)
            beside = {**library, header: headers[header]}
            for_level = level.zig_flags if compiler.is_zig else level.flags
            own = (*flags, *for_level, "-include", header)
            units.append(Unit(name, sources[name], tuple(sorted(beside.items())), own))
    return sorted(units, key=lambda unit: (unit.name != PROGRAM, unit.name, unit.flags))


def _object(compiler: Compiler, unit: Unit) -> bytes:
    """Returns a unit's object code; only the program's differs from one program to another."""
    if unit.name == PROGRAM:
        return _compile(compiler, unit)
    return _library_object(compiler, unit)


def _library_object(compiler: Compiler, unit: Unit) -> bytes:
    with _LOCKS[hash(unit) % len(_LOCKS)]:  # whoever comes second waits for the first one's object
        return _kept_object(compiler, unit)


@lru_cache(maxsize=256)
def _kept_object(compiler: Compiler, unit: Unit) -> bytes:
    host = (platform.system(), platform.machine())
    key = hashlib.sha256(repr((host, compiler, unit)).encode()).hexdigest()
    kept = object_cache.read(key)
    if kept is None:
        kept = _compile(compiler, unit)
        object_cache.write(key, kept)
    return kept


def _compile(compiler: Compiler, unit: Unit) -> bytes:
    """Returns the object code of one C file, compiled under a relative name."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        for file_name, text in (*unit.headers, (unit.name, unit.content)):
            (Path(folder) / file_name).write_bytes(text)
        place = f"-ffile-prefix-map={folder}=."
        arguments = [*unit.flags, place, "-c", unit.name, "-o", "unit.o"]
        return _call(compiler, arguments, folder, "unit.o")


def _call(compiler: Compiler, arguments: Sequence[str], folder: str, output: str) -> bytes:
    """Runs the compiler and returns the file that it wrote."""
    done = _run(compiler, arguments, folder)
    written = Path(folder) / output
    if done.returncode == 0 and written.is_file():
        return written.read_bytes()
    first = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr[:200])
    problem = f"failed with status {done.returncode}: {first}"
    if done.returncode == 0:
        problem = f"reported success and wrote no {output}"
    version, variable = compiler.version.partition("\n")[0], compiler.variable
    raise QCompilerError(
        "QC0803",
        f"{compiler.command[0]} {problem}",
        remedy=f"check that the compiler works ({version}), or set {variable} to another one",
    )


def _run(
    compiler: Compiler, arguments: Sequence[str], folder: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*compiler.command, *compiler.flags, *arguments, *compiler.extra],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
