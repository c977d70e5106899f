"""Executed instructions of the Cortex-M kernels per multiply-accumulate, beside the portable ones.

Kernels are called on machines of qemu under the counting plugin: counts are exact and repeatable.

    python -m benchmarks.cortex_m [--compiler gcc] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from qcompiler.backends.arm.counting import VERSIONS, counting_plugin
from tests.backends.cortex_m_image import MACHINES, Machine, build_image, clang, run_image

PROGRAM = Path(__file__).with_suffix(".c")
OUT = Path(__file__).parent / "results" / "cortex_m_instructions.txt"
COMPILERS = ("clang", "gcc")


def count(machine: Machine, image: Path, level: str, folder: Path) -> dict[str, tuple[int, int]]:
    """Returns products and executed instructions of each call, by its name."""
    plugin, out = folder / "count.so", folder / "counts.txt"
    plugin.write_bytes(counting_plugin(VERSIONS[0]))
    done = run_image(machine, image, (level,), ("-plugin", f"{plugin},out={out}"))
    if done.returncode:
        sys.exit(f"{machine.name}: status {done.returncode}: {done.stderr}")
    calls = [line.split() for line in done.stderr.splitlines()]
    # blocks of code follow the count of a call, in lines of two words
    lines = out.read_text(encoding="ascii").splitlines()
    counts = [int(line) for line in lines if " " not in line]
    return {
        name.replace("_", " "): (int(products), instructions)
        for (name, products), instructions in zip(calls, counts, strict=True)
    }


def table_of(machine: Machine, compiler: str) -> str:
    """Returns the table of one core."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kernels_by = clang(machine) if compiler == "clang" else None
        image = build_image(
            machine, PROGRAM.read_text(encoding="utf-8"), {}, folder / "image.elf", kernels_by
        )
        plain = count(machine, image, "portable", folder)
        own = count(machine, image, machine.level, folder)
    lines = [
        f"{machine.core}, {compiler}",
        f"{'':42}{'portable':>10}{machine.level:>10}{'ratio':>8}",
    ]
    for call, (products, instructions) in own.items():
        before = plain[call][1]
        lines.append(
            f"{call:42}{before / products:10.3f}{instructions / products:10.3f}"
            f"{before / instructions:8.1f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the tables of all cores and stores them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", choices=COMPILERS, action="append")
    parser.add_argument("--core", choices=[*MACHINES], action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    tables = [
        table_of(MACHINES[core], compiler)
        for core in options.core or MACHINES
        for compiler in options.compiler or COMPILERS
    ]
    text = "Instructions per multiply-accumulate, or per result, -O2\n\n" + "\n".join(tables)
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
