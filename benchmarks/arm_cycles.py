"""Executed instructions and predicted cycles of networks on named cores, operator by operator.

    python -m benchmarks.arm_cycles efficientnet_lite0=model.qcp mnist=digits.qcp [--all]

Programs are those of any target: their graphs are built for each core. Cycles are llvm-mca's for
the blocks of code that qemu executes (docs/targets/arm.md).
"""

from __future__ import annotations

import argparse

import torch

from qcompiler.api import resolve_target
from qcompiler.ir.annotations import type_of
from qcompiler.report.table import rows_of
from qcompiler.runtime.artifact import read_artifact
from qcompiler.target.base import Profile

CORES = ("cortex-a53", "cortex-a55", "cortex-a76", "neoverse-n1", "neoverse-v1")
HEADS = ("network", "core", "MMAC", "instructions", "cycles", "instructions/cycle", "MAC/cycle")


def main() -> None:
    """Prints a row per network and core, and with --all the operators of each."""
    parser = argparse.ArgumentParser(description="predicted cycles on named ARM cores")
    parser.add_argument("programs", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--core", action="append")
    parser.add_argument("--all", action="store_true", help="operators, too")
    options = parser.parse_args()
    rows: list[list[str]] = []
    details: list[str] = []
    notes: set[str] = set()
    for program in options.programs:
        name, _, path = program.partition("=")
        artifact = read_artifact(path)
        graph = artifact.graph()
        graph.structure = artifact.manifest["structure"]
        random = torch.Generator().manual_seed(1)
        shapes = [[n if isinstance(n, int) else 1 for n in type_of(x).shape] for x in graph.inputs]
        inputs = [torch.randn(shape, generator=random) for shape in shapes]
        macs = {row.node: row.macs or 0 for row in rows_of(graph, {}, {})}
        for core in options.core or CORES:
            target = resolve_target(core)
            profile = target.build(graph).profile(inputs)
            rows.append([name, core, *numbers_of(profile, sum(macs.values()))])
            notes.add(profile.note)
            if options.all:
                details += ["", f"{name} on {core}:", "", *table_of(profile, macs)]
    print_table(HEADS, rows)
    print("\n".join(["", *sorted(notes), *details]))


def numbers_of(profile: Profile, macs: int) -> list[str]:
    """Returns the cells of a sum."""
    return _cells(macs, sum(profile.instructions.values()), sum(profile.cycles.values()))


def table_of(profile: Profile, macs: dict[str, int]) -> list[str]:
    """Returns the lines of a table of operators."""
    lines = [f"| operator | {' | '.join(HEADS[2:])} |", f"|{' --- |' * 6}"]
    for node, count in profile.instructions.items():
        cells = _cells(macs.get(node, 0), count, profile.cycles[node])
        lines.append(f"| {node} | {' | '.join(cells)} |")
    return lines


def print_table(heads: tuple[str, ...], rows: list[list[str]]) -> None:
    """Prints a table."""
    print(f"| {' | '.join(heads)} |")
    print(f"|{' --- |' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _cells(macs: int, count: int, cycles: float) -> list[str]:
    rates = [f"{count / cycles:.2f}", f"{macs / cycles:.2f}"]
    return [f"{macs / 1e6:.2f}", f"{count:,}", f"{cycles:,.0f}", *rates]


if __name__ == "__main__":
    main()
