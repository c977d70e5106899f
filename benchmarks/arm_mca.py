"""Predicted efficiency of the inner loops of the ARM tiles: products per cycle beside each core's peak.

Compiles the tiles for a level, cuts the loops with most products out of the assembly, and asks
llvm-mca for the cycles of an iteration. Loads and stores to and from the stack inside a loop are
spills; they are counted.

    python benchmarks/arm_mca.py [--compiler gcc|clang] [--all]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "backends" / "native" / "kernels"
COMPILERS = {
    "gcc": ("aarch64-linux-gnu-gcc",),
    "clang": (
        "clang-19",
        "--target=aarch64-linux-gnu",
        "-isystem",
        "/usr/aarch64-linux-gnu/include",
    ),
}
FLAGS = (
    "-std=gnu11",
    "-ffp-contract=off",
    "-fwrapv",
    "-S",
    "-o",
    "-",
    *__import__("os").environ.get("TUNE", "").split(),
)


@dataclass(frozen=True)
class Level:
    """A level: what the compiler is told, the products of its loops, and the files that hold them."""

    march: str
    product: str
    macs: int
    files: tuple[str, ...]


LEVELS = {
    "neon": Level("armv8-a", r"(?:smull|smlal)2?", 8, ("tile_neon.c", "depthwise_neon.c")),
    "dotprod": Level("armv8.2-a+dotprod", "sdot", 16, ("tile_dotprod.c", "depthwise_dotprod.c")),
    "i8mm": Level("armv8.6-a+i8mm", "smmla", 32, ("tile_i8mm.c",)),
}
# Products a cycle: Arm's software optimization guides, as LLVM's models have them.
PEAKS = {
    "neon": {"cortex-a53": 1, "cortex-a55": 1, "neoverse-n1": 1, "neoverse-v1": 2},
    "dotprod": {"cortex-a55": 1, "neoverse-n1": 2, "neoverse-v1": 4},
    "i8mm": {"neoverse-n2": 2, "neoverse-v1": 4},
}


def compile_assembly(compiler: str, level: Level, name: str) -> str:
    """Returns the assembly of a kernel file, optimized as the build does."""
    command = [*COMPILERS[compiler], f"-march={level.march}", "-O2", *FLAGS, str(KERNELS / name)]
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
    """Returns the bodies of innermost loops: from a label to a branch back to it."""
    loops = []
    for start, line in enumerate(lines):
        if not (label := re.match(r"(\.\w+):", line)):
            continue
        for end in range(start + 1, len(lines)):
            if re.match(r"\.\w+:", lines[end]):
                break
            if re.match(
                rf"\s+(b\.?\w+|cbn?z\s+\w+,|tbn?z\s.*,)\s+{re.escape(label.group(1))}$", lines[end]
            ):
                loops.append([x for x in lines[start + 1 : end + 1] if re.match(r"\s+[a-z]", x)])
                break
    return loops


def cycles_of(body: list[str], core: str) -> float:
    """Returns the cycles of an iteration by llvm-mca, over many iterations."""
    kept = [line for line in body if not re.match(r"\s+(b\.?\w+|cbn?z|tbn?z)\s", line)]
    # a branch goes nowhere without its label; a compare takes its place in the pipeline
    text = "\n".join([*kept, "\tcmp x27, x28"]) + "\n"
    command = [
        "llvm-mca-19",
        "-mtriple=aarch64",
        f"-mcpu={core}",
        "-mattr=+dotprod,+i8mm",
        "-iterations=200",
        "--instruction-info=0",
        "--resource-pressure=0",
    ]
    out = subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
    total = re.search(r"Total Cycles:\s+(\d+)", out)
    assert total is not None
    return int(total.group(1)) / 200


def main() -> None:
    """Prints a row per loop and core."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", choices=COMPILERS, action="append")
    parser.add_argument("--level", choices=LEVELS, action="append")
    parser.add_argument("--all", action="store_true", help="every function, not the largest tile")
    options = parser.parse_args()
    missing = [
        t for t in ("llvm-mca-19", "clang-19", "aarch64-linux-gnu-gcc") if not shutil.which(t)
    ]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (apt: llvm-19 clang-19 gcc-aarch64-linux-gnu)")
    print(
        "| level | compiler | loop | products | other | stack | core | cycles | products/cycle | of peak |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.level or LEVELS:
        level = LEVELS[name]
        for compiler in options.compiler or COMPILERS:
            for file in level.files:
                if (KERNELS / file).exists():
                    report(
                        name, compiler, compile_assembly(compiler, level, file), every=options.all
                    )


def report(name: str, compiler: str, assembly: str, *, every: bool) -> None:
    """Prints the rows of the loops with most products of each function."""
    level = LEVELS[name]
    rows = []
    for function, lines in functions_of(assembly).items():
        pattern = re.compile(rf"\s+{level.product}\s")
        bodies = [(sum(map(bool, map(pattern.match, b))), b) for b in loops_of(lines)]
        if bodies and max(bodies, key=lambda b: b[0])[0] >= 4:
            count, body = max(bodies, key=lambda b: b[0])
            rows.append((count, function, body))
    most = max((count for count, _, _ in rows), default=0)
    for count, function, body in rows:
        if not every and count < most:
            continue
        stack = sum("[sp" in line for line in body)
        for core, peak in PEAKS[name].items():
            cycles = cycles_of(body, core)
            rate = count / cycles
            print(
                f"| {name} | {compiler} | {function} | {count} | {len(body) - count} | {stack} |"
                f" {core} | {cycles:.1f} | {rate:.2f} | {rate / peak:.0%} |"
            )


if __name__ == "__main__":
    main()
