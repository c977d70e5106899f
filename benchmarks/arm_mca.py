"""Predicted efficiency of the inner loops of the ARM kernels, beside the peak of each core.

Compiles the tiles of a level, cuts the loops with most products out of the assembly, and asks
llvm-mca for the cycles of an iteration. What a loop moves to and from the stack is counted, too:
it should be nothing.

    python -m benchmarks.arm_mca [--level dotprod] [--compiler gcc] [--all]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends.arm import isa
from qcompiler.backends.arm.mca import cycles_of_texts, find_analyzer
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.toolchain import COMMON_FLAGS, OPTIMIZATION

KERNELS = Path(__file__).resolve().parents[1] / "backends" / "native" / "kernels"
COMPILERS = {
    "gcc": ("aarch64-linux-gnu-gcc",),
    "clang": (
        *("clang-19", "--target=aarch64-linux-gnu"),
        *("-isystem", "/usr/aarch64-linux-gnu/include"),
    ),
}
BRANCH = r"\s+(b|b\.\w+|b(eq|ne|lt|le|gt|ge|cs|cc|hi|ls|mi|pl)|cbn?z|tbn?z|bl|ret)\b"
COLUMNS = (
    *("level", "compiler", "loop", "products", "other", "stack"),
    *("core", "cycles", "products/cycle", "of peak"),
)


@dataclass(frozen=True)
class Loops:
    """What a level's loops are: the instructions that multiply, the files that hold them.

    ``peaks`` are the products that a core can begin in a cycle: Arm's software optimization guides,
    as LLVM's models have them.
    """

    level: Isa
    product: str
    files: tuple[str, ...]
    peaks: dict[str, int]


LOOPS = {
    loops.level.name: loops
    for loops in (
        Loops(
            isa.NEON,
            "(?:smull|smlal)2?",
            ("tile_neon.c", "depthwise_neon.c"),
            {"cortex-a53": 1, "cortex-a55": 1, "neoverse-n1": 1, "neoverse-v1": 2},
        ),
        Loops(
            isa.DOTPROD,
            "sdot",
            ("tile_dotprod.c", "depthwise_dotprod.c"),
            {"cortex-a55": 1, "neoverse-n1": 2, "neoverse-v1": 4},
        ),
        Loops(isa.I8MM, "smmla", ("tile_i8mm.c",), {"neoverse-n2": 2, "neoverse-v1": 4}),
    )
}


def compile_assembly(compiler: str, level: Isa, name: str) -> str:
    """Returns the assembly of a kernel file, compiled as the build does."""
    flags = (*COMMON_FLAGS, OPTIMIZATION[name], *level.flags, "-S", "-o", "-")
    command = [*COMPILERS[compiler], *flags, str(KERNELS / name)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions_of(assembly: str) -> dict[str, list[str]]:
    """Returns the lines of each function by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in assembly.splitlines():
        if started := re.match(r"([a-z]\w+):", line):
            lines = found.setdefault(started.group(1), [])
        elif line.strip().startswith(".size"):
            lines = None
        elif lines is not None:
            lines.append(line.split("//")[0].rstrip())
    return found


def loops_of(lines: list[str]) -> list[list[str]]:
    """Returns what runs between labels and branches, the branch included: bodies of loops, mostly.

    Loops that are unrolled within another are one run, too.
    """
    runs: list[list[str]] = [[]]
    for line in lines:
        if re.match(r"\s+[a-z]", line):
            runs[-1].append(line)
        if re.match(r"\.\w+:", line) or re.match(BRANCH, line):
            runs.append([])
    return runs


def cycles_of(body: list[str], core: str) -> float:
    """Returns the cycles of an iteration by llvm-mca."""
    kept = [line for line in body if not re.match(BRANCH, line)]
    # a branch goes nowhere without its label: a compare takes its place in the pipeline
    found = cycles_of_texts(["\n".join([*kept, "\tcmp x27, x28"])], core, find_analyzer())
    if found is None:
        sys.exit(f"llvm-mca refuses a loop for {core}")
    return found[0]


def rows_of(loops: Loops, compiler: str, name: str, *, every: bool) -> list[tuple[object, ...]]:
    """Returns a row per core for the largest loop of each function, or of the largest ones."""
    pattern = re.compile(rf"\s+{loops.product}\s")
    found = []
    for function, lines in functions_of(compile_assembly(compiler, loops.level, name)).items():
        bodies = [(sum(bool(pattern.match(x)) for x in b), b) for b in loops_of(lines)]
        count, body = max(bodies, key=lambda item: item[0], default=(0, []))
        if count >= 4:
            found.append((count, function, body))
    most = max((count for count, _, _ in found), default=0)
    rows: list[tuple[object, ...]] = []
    for count, function, body in found:
        if not every and count < most:
            continue
        stack = sum("[sp" in line for line in body)
        for core, peak in loops.peaks.items():
            cycles = cycles_of(body, core)
            rate = count / cycles
            shown = (f"{cycles:.1f}", f"{rate:.2f}", f"{rate / peak:.0%}")
            other = len(body) - count
            rows.append((loops.level.name, compiler, function, count, other, stack, core, *shown))
    return rows


def main() -> None:
    """Prints a row per loop and core."""
    parser = argparse.ArgumentParser(description="predicted efficiency of ARM inner loops")
    parser.add_argument("--level", choices=LOOPS, action="append")
    parser.add_argument("--compiler", choices=COMPILERS, action="append")
    parser.add_argument("--all", action="store_true", help="every function, not the largest alone")
    options = parser.parse_args()
    needed = ("clang-19", "aarch64-linux-gnu-gcc")
    missing = [tool for tool in needed if not shutil.which(tool)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (apt: clang-19 gcc-aarch64-linux-gnu)")
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * len(COLUMNS)}")
    for name in options.level or LOOPS:
        for compiler in options.compiler or COMPILERS:
            for file in LOOPS[name].files:
                for row in rows_of(LOOPS[name], compiler, file, every=options.all):
                    print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
