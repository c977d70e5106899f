"""Finds what builds programs for Cortex-M without an operating system, and what runs them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec

from qcompiler.backends.arm.cross import DEFINES
from qcompiler.backends.arm.isa import BASELINE, Machine
from qcompiler.backends.native.emitter import NativeSources
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.rendering import template
from qcompiler.backends.native.toolchain import (
    DEFAULT_OPTIMIZATION,
    LANGUAGE_FLAGS,
    OPTIMIZATION,
    Compiler,
    Unit,
    link_units,
    links,
    version_of,
    words_of,
)
from qcompiler.errors import QCompilerError

COMPILER, EMULATOR = "QCOMPILER_ARM_NONE_EABI_CC", "QCOMPILER_ARM_QEMU"
STACK_BYTES = 32 << 10
_ZIG_FLAGS = ("-target", "thumb-freestanding-eabihf", "-fno-sanitize=undefined")
_SMALL_FLAGS = (
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fshort-enums",
    "-g0",
    "-I.",
)
LINK_FLAGS = ("-nostartfiles", "-Wl,--gc-sections", "-Wl,--build-id=none")
# Divides 64 bits by 64, which the processors have no instruction for: needs the compiler's library.
_PROBE = """
int main(void);
int main(void)
{
    static volatile long long one = 3, other = 2;
    return (int)(one / other);
}
"""
_RUNNER = ("runner.c", "runner.h")
_MACHINE = ("runner_machine.c", "semihosting.h", "startup.c")
# Compiled for every Cortex-M, as they run before it is known which one it is.
_BASELINE_UNITS = ("processor.c", "runner.c", "runner_machine.c", "startup.c")


def find_bare_compiler() -> Compiler:
    """Returns a compiler that makes programs for Cortex-M without an operating system.

    That is the one of QCOMPILER_ARM_NONE_EABI_CC, else zig, whose code for Helium is better than
    that of gcc 12, else arm-none-eabi-gcc. The words of QCOMPILER_CFLAGS end every call of it.

    Raises:
        QCompilerError: QC0821 when there is none, QC0803 when QCOMPILER_CFLAGS cannot be split.
    """
    extra = words_of("QCOMPILER_CFLAGS", "QC0803")
    return _probe(words_of(COMPILER, "QC0821"), os.environ.get("PATH", ""), extra)


@lru_cache(maxsize=8)
def _probe(preferred: tuple[str, ...], path: str, extra: tuple[str, ...]) -> Compiler:
    candidates: list[tuple[str, ...]] = [preferred] if preferred else []
    if not preferred:
        if find_spec("ziglang") is not None:
            candidates.append((sys.executable, "-m", "ziglang", "cc"))
        candidates.append(("arm-none-eabi-gcc",))
    for words in candidates:
        if shutil.which(words[0], path=path):
            found = Compiler(words, version_of(words), DEFINES, extra, COMPILER)
            if found.is_zig:
                found = Compiler(words, found.version, (*_ZIG_FLAGS, *DEFINES), extra, COMPILER)
            flags = (*level_flags(BASELINE, found), "-nostartfiles", "-Wl,--entry=main")
            if links(found, flags, _PROBE):
                return found
    problem = "neither the ziglang package nor arm-none-eabi-gcc makes any"
    if preferred:
        problem = f"{preferred[0]!r} of {COMPILER} makes none"
    raise QCompilerError(
        "QC0821",
        f"no compiler for Cortex-M programs found: {problem}",
        remedy="install the extra (pip install 'qcompiler[zig]'), or gcc:"
        " apt install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    )


def machine_options(machine: Machine) -> tuple[str, ...]:
    """Returns the options of qemu-system-arm for a machine, up to its program."""
    quiet = ("-nographic", "-monitor", "none", "-serial", "none")
    semihosting = ("-semihosting-config", "enable=on,target=native")
    return ("-M", machine.name, *quiet, *semihosting, "-kernel")


def machine_emulator() -> tuple[str, ...]:
    """Returns the command that starts machines.

    Raises:
        QCompilerError: QC0822 without qemu.
    """
    chosen = words_of(EMULATOR, "QC0822") or ("qemu-system-arm",)
    if shutil.which(chosen[0]) is None:
        named = f"{chosen[0]!r} of {EMULATOR} is no command"
        raise QCompilerError(
            "QC0822",
            "programs for Cortex-M run under an emulator here: "
            + (named if os.environ.get(EMULATOR) else "there is no qemu-system-arm"),
            remedy="apt install qemu-system-arm; Program.export_c and save work without it",
        )
    return chosen


def runner_files() -> dict[str, bytes]:
    """Returns what serves requests for a program on a machine, as files to compile with it."""
    folder = files(__package__)
    made = {name: (folder / name).read_bytes() for name in _RUNNER}
    return made | {name: (folder / "machine" / name).read_bytes() for name in _MACHINE}


def linker_script(machine: Machine) -> bytes:
    """Returns where a linker puts a program in a machine's memory."""
    values = {"machine": machine, "stack": STACK_BYTES, "weight_bytes": 0, "large_bytes": 0}
    return template("machine.ld.jinja").render(values).encode()


def example_files() -> dict[str, bytes]:
    """Returns what starts the example of a project on a machine, by name."""
    folder = files(__package__) / "machine"
    return {name: (folder / name).read_bytes() for name in ("semihosting.h", "startup.c")}


def level_flags(level: Isa, compiler: Compiler) -> tuple[str, ...]:
    """Returns the options of a compiler for a level."""
    return level.zig_flags if compiler.is_zig else level.flags


def build_image(sources: NativeSources, level: Isa, machine: Machine, compiler: Compiler) -> bytes:
    """Compiles and links a program with what serves its requests, for one machine.

    Raises:
        QCompilerError: QC0803 when the compiler refuses the sources.
    """
    script = "machine.ld"
    flags = (*level_flags(level, compiler), *LINK_FLAGS, "-T", script)
    units = bare_units(sources.files, level, compiler)
    return link_units(compiler, units, flags, {script: linker_script(machine)})


def bare_units(files_: Mapping[str, bytes], level: Isa, compiler: Compiler) -> list[Unit]:
    """Returns the calls of a compiler for C files and headers by name."""
    headers = {name: text for name, text in files_.items() if name.endswith(".h")}
    if compiler.is_zig:
        headers["string.h"] = template("freestanding_string.h").render().encode()
    # What differs from one model to another is left out where it is not included, as objects of
    # the library are kept.
    library = {name: text for name, text in headers.items() if name != "model.h"}
    common = (*LANGUAGE_FLAGS, "-ffunction-sections", "-fdata-sections", *_SMALL_FLAGS)
    units = []
    for name in sorted(n for n in files_ if n.endswith(".c")):
        beside = headers if b'"model.h"' in files_[name] else library
        chosen = BASELINE if name in _BASELINE_UNITS else level
        optimization = OPTIMIZATION.get(name, DEFAULT_OPTIMIZATION)
        own = (optimization, *common, *level_flags(chosen, compiler))
        units.append(Unit(name, files_[name], tuple(sorted(beside.items())), own))
    return units
