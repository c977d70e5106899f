"""Finds what builds programs for ARM processors, and what runs them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from functools import lru_cache
from importlib.util import find_spec

from qcompiler.backends.native.toolchain import (
    Compiler,
    links,
    version_of,
    words_of,
)
from qcompiler.errors import QCompilerError

COMPILER, EMULATOR = "QCOMPILER_AARCH64_CC", "QCOMPILER_AARCH64_QEMU"
# Signed bytes are what the products of ARM take: docs/adr/0012.
DEFINES = ("-DQC_SIGNED_CODES=1",)
LINK_FLAGS = ("-static", "-pthread", "-Wl,--build-id=none")
_CLANG = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
_CLANG_FLAGS = ("--target=aarch64-linux-gnu", "-fuse-ld=lld")
_ZIG_FLAGS = ("-target", "aarch64-linux-musl", "-fno-sanitize=undefined")


def is_native() -> bool:
    """Returns whether this machine runs programs for 64-bit ARM itself."""
    return platform.machine() in ("aarch64", "arm64") and sys.platform == "linux"


def find_cross_compiler() -> Compiler:
    """Returns a compiler that makes static executables for Linux on 64-bit ARM.

    That is the one of QCOMPILER_AARCH64_CC, else this machine's own on ARM, else
    aarch64-linux-gnu-gcc, clang or zig. The words of QCOMPILER_CFLAGS end every call of it.

    Raises:
        QCompilerError: QC0821 when there is none, QC0803 when QCOMPILER_CFLAGS cannot be split.
    """
    extra = words_of("QCOMPILER_CFLAGS", "QC0803")
    preferred = words_of(COMPILER, "QC0821")
    return _probe(preferred, os.environ.get("PATH", ""), extra)


@lru_cache(maxsize=8)
def _probe(preferred: tuple[str, ...], path: str, extra: tuple[str, ...]) -> Compiler:
    candidates: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(preferred, ())]
    if not preferred:
        own = [((name,), ()) for name in ("cc", "gcc", "clang")] if is_native() else []
        candidates = [*own, (("aarch64-linux-gnu-gcc",), ())]
        candidates += [((name,), _CLANG_FLAGS) for name in _CLANG]
        if find_spec("ziglang") is not None:
            candidates.append(((sys.executable, "-m", "ziglang", "cc"), _ZIG_FLAGS))
    for words, flags in candidates:
        if shutil.which(words[0], path=path):
            found = Compiler(words, version_of(words), (*flags, *DEFINES), extra, COMPILER)
            if links(found, LINK_FLAGS):
                return found
    problem = f"neither {candidates[0][0][0]}, clang nor the ziglang package makes one"
    if preferred:
        problem = f"{preferred[0]!r} of {COMPILER} makes none"
    raise QCompilerError(
        "QC0821",
        f"no compiler for 64-bit ARM under Linux found: {problem}",
        remedy="install one (apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross), or the"
        " extra: pip install 'qcompiler[zig]'",
    )


def emulator(model: str) -> tuple[str, ...]:
    """Returns the words before the command of a program for 64-bit ARM; none on such a machine.

    Args:
        model: of a processor, as ``qemu-aarch64 -cpu help`` lists them.

    Raises:
        QCompilerError: QC0822 where neither an ARM processor nor qemu is there.
    """
    if is_native():
        return ()
    chosen = words_of(EMULATOR, "QC0822")
    for words in [chosen] if chosen else [("qemu-aarch64",), ("qemu-aarch64-static",)]:
        if shutil.which(words[0]):
            return (*words, "-cpu", model)
    raise QCompilerError(
        "QC0822",
        f"this machine ({platform.machine()}) runs no programs for 64-bit ARM: "
        + (f"{chosen[0]!r} of {EMULATOR} is no command" if chosen else "there is no qemu-aarch64"),
        remedy="install qemu (apt install qemu-user), or run it on an ARM machine;"
        " Program.export_c and save need neither",
    )
