"""Instruction-set levels of one shared library: names per level, and the choice at load time.

Kernel files are compiled once for each level, with every function of theirs renamed by a header
that is included by force. The interface of the kernel library, which is what ``qc.h`` declares
without defining it in a shared unit, becomes a table of pointers per level; ``program.c`` is
compiled once and calls through the table that the processor's features choose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qcompiler.backends.native.rendering import template

INTERFACE = "qc.h"
# Compiled once for all levels, beside the generated ones: state of the process lives here.
SHARED_UNITS = ("threads.c", "runner.c", "runner_host.c")
PROGRAM, DISPATCH, KERNELS = "program.c", "dispatch.c", "kernels.h"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_CALLED = re.compile(r"\b(qc_\w+)\s*\(")
_NAME = re.compile(r"\bqc_\w+")
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
_PROTOTYPE = re.compile(r"^\w[\w \t*]*\b(qc_\w+)\s*\([^;{}]*\)\s*;", re.MULTILINE)


class Feature(NamedTuple):
    """One feature of a processor.

    ``name`` is that of /proc/cpuinfo and ``option`` the compiler's ``-m`` option; ``leaf``,
    ``subleaf``, ``register`` (0 to 3 for eax to edx) and ``bit`` are where cpuid tells it, and
    ``state`` the bits of XCR0 that an operating system sets when it keeps the registers. Intel
    Software Developer's Manual, volume 2A, CPUID, and volume 1, 13.3.
    """

    name: str
    option: str
    leaf: int
    subleaf: int
    register: int
    bit: int
    state: int

    @property
    def flag(self) -> str:
        """The option that lets a compiler use the feature's instructions."""
        return f"-m{self.option}"

    @property
    def macro(self) -> str:
        """The macro that a compiler defines where it can use them."""
        return f"__{self.option.upper()}__"

    @property
    def probe(self) -> tuple[int, ...]:
        """The numbers by which a program finds the feature."""
        return self.leaf, self.subleaf, self.register, self.bit, self.state


class HwcapFeature(NamedTuple):
    """One feature of an ARM processor that Linux tells a process of.

    ``name`` is that of /proc/cpuinfo, ``macro`` what a compiler defines where it can use the
    feature (Arm C Language Extensions); ``entry`` of the auxiliary vector, 16 for AT_HWCAP and 26
    for AT_HWCAP2, has it at ``bit``: Linux, Documentation/arch/arm64/elf_hwcaps.rst.
    """

    name: str
    macro: str
    entry: int
    bit: int

    @property
    def flag(self) -> str:
        """Nothing: an architecture stands for its features."""
        return ""

    @property
    def probe(self) -> tuple[int, ...]:
        """The numbers by which a program finds the feature."""
        return self.entry, 0, 0, self.bit, 0


class RegisterFeature(NamedTuple):
    """One feature of a Cortex-M processor, which a field of a register tells.

    ``macro`` is what a compiler defines where it can use the feature (Arm C Language Extensions).
    The four bits from ``bit`` of the register at ``address`` are at least ``least``: Armv8-M
    Architecture Reference Manual, chapter D1. ``part`` is the primary part number of processors
    that have the feature whatever the register says.
    """

    name: str
    macro: str
    address: int
    bit: int
    least: int
    part: int = 0

    @property
    def flag(self) -> str:
        """Nothing: a core stands for its features."""
        return ""

    @property
    def probe(self) -> tuple[int, ...]:
        """The numbers by which a program finds the feature."""
        return self.address, 0, self.least, self.bit, self.part


@dataclass(frozen=True)
class Isa:
    """One level: the features that its kernels use, and the architecture if that names them.

    ``defines`` are macros of its units, ``tune`` is the core whose order of instructions compilers
    aim at, ``options`` stand for the features where no architecture does. Zig knows no
    architectures, but ``zig_cpu``. ``family`` is that of the processors: x86, a or m.
    """

    name: str
    features: tuple[Feature | HwcapFeature | RegisterFeature, ...]
    march: str = ""
    defines: tuple[str, ...] = ()
    zig_cpu: str = ""
    tune: str = ""
    options: tuple[str, ...] = ()
    family: str = "x86"

    @property
    def flags(self) -> tuple[str, ...]:
        """The options that let a compiler use the level's instructions."""
        own = self.options or tuple(f.flag for f in self.features if f.flag)
        chosen = (f"-march={self.march}",) if self.march else own
        tuned = (f"-mtune={self.tune}",) if self.tune else ()
        return (*chosen, *tuned, *self.definitions)

    @property
    def zig_flags(self) -> tuple[str, ...]:
        """The options for zig, which names features of ARM in another way."""
        return (f"-mcpu={self.zig_cpu}", *self.definitions) if self.zig_cpu else self.flags

    @property
    def definitions(self) -> tuple[str, ...]:
        """The options that define the macros of the level."""
        return tuple(f"-D{name}=1" for name in self.defines)

    @property
    def macros(self) -> tuple[str, ...]:
        """The macros that a compiler defines where it can use the level's instructions."""
        return tuple(feature.macro for feature in self.features)


def generated(sources: Mapping[str, bytes], levels: Sequence[Isa]) -> dict[str, bytes]:
    """Returns the files that bind a program to levels, given slowest first.

    These are a header of names for each level, the table of the library's functions, and the unit
    that chooses one.
    """
    texts = {
        name: _COMMENT.sub(" ", content.decode())
        for name, content in sources.items()
        if name != PROGRAM
    }
    shared = {n for unit in SHARED_UNITS for n in _CALLED.findall(texts.get(unit, ""))}
    own = [text for name, text in texts.items() if name not in SHARED_UNITS]
    macros = {name for text in own for name in _MACRO.findall(text)}
    names = sorted({n for text in own for n in _CALLED.findall(text)} - shared - macros)
    units = {t for name, text in texts.items() if name.endswith(".c") for t in _NAME.findall(text)}
    declared = _PROTOTYPE.findall(texts.get(INTERFACE, ""))
    exported = [n for n in declared if n in units and n not in shared]
    made = {
        KERNELS: template("kernels.h.jinja").render(functions=exported),
        DISPATCH: template("dispatch.c.jinja").render(functions=exported, levels=levels),
    }
    for level in levels:
        lines = [f"#define {name} {name}_{level.name}\n" for name in names]
        made[names_header(level)] = "".join(lines)
    return {name: f"{text.rstrip()}\n".encode() for name, text in made.items()}


def names_header(level: Isa) -> str:
    """Returns the name of the header that renames a level's functions."""
    return f"names_{level.name}.h"
