"""How much flash the code of an exported library takes: what linking it keeps is counted."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from qcompiler.backends.arm.bare import LINK_FLAGS, bare_units, level_flags
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.toolchain import Compiler, link_units

_MAIN = b"""
#include "model.h"

typedef void (*called)(void);
int main(void);
int main(void)
{
    static called volatile const calls[] = {
        (called)model_init, (called)model_arena_bytes, (called)model_run};
    for (int i = 0; i < 3; i++)
        calls[i]();
    return 0;
}
"""
# Of a section of an ELF file (System V ABI, chapter 4): flag of memory, type without content.
_ALLOC, _NOBITS = 2, 8


def code_size(library: Mapping[str, bytes], level: Isa, compiler: Compiler) -> int:
    """Returns the bytes of code that the calls of a library need, with its constants but weights.

    Args:
        library: ``model.c``, ``model.h`` and the files that they need, by name.
        level: its instruction set.
        compiler: as ``find_bare_compiler`` returns it.

    Raises:
        QCompilerError: QC0803 when the compiler refuses something.
    """
    units = bare_units({**library, "main.c": _MAIN}, level, compiler)
    flags = (*level_flags(level, compiler), *LINK_FLAGS, "-Wl,--entry=main")
    image = link_units(compiler, units, flags)
    (at,) = struct.unpack_from("<I", image, 32)
    entry, count = struct.unpack_from("<HH", image, 46)
    sections = [struct.unpack_from("<6I", image, at + index * entry) for index in range(count)]
    return sum(s[5] for s in sections if s[2] & _ALLOC and s[1] != _NOBITS)
