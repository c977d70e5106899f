"""Executed instructions of a program at the dotprod level, beside those that its tiles imply.

A tile implies its dot products, the loads of their operands and of the constants of its columns,
and the stores of its results: what an ideal program of the same tiles would execute if everything
else were free. The executed ones are counted by qemu, operator by operator.

    python -m benchmarks.arm_instructions [--level dotprod] model.qcp

At another level than dotprod the executed instructions stand alone: the accounting is of sdot.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import ceil, prod
from typing import Any

import torch
from torch import fx

from qcompiler.backends.arm.executable import ArmExecutable
from qcompiler.backends.arm.target import Armv8Target, DotprodTarget, I8mmTarget
from qcompiler.backends.native.choices import is_depthwise
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.queries import product_arguments
from qcompiler.runtime.artifact import read_artifact

LEVELS = {"neon": Armv8Target, "dotprod": DotprodTarget, "i8mm": I8mmTarget}
# Results of a tile: rows by columns; and what a tile of depthwise convolution computes at a time.
ROWS, COLUMNS, EIGHT = 8, 8, 8
# Loads of a tile's columns: two vectors each of biases, multipliers and shifts.
CONSTANTS = 6


def sizes(node: fx.Node) -> list[int]:
    """Returns the shape of a value, with 1 for what is dynamic."""
    return [n if isinstance(n, int) else 1 for n in type_of(node).shape]


def products(rows: int, columns: int, taps: int, depth: int) -> tuple[float, float]:
    """Returns the dot products, and the loads and stores, of a GEMM in tiles of 8 x 8."""
    quads, halves, tall = ceil(depth / 4), ceil(columns / COLUMNS), rows / ROWS
    dots = taps * quads * 2 * ROWS
    loads = taps * (ROWS * ceil(quads / 4) + 2 * quads) + CONSTANTS
    return tall * halves * dots, tall * halves * (loads + ROWS)


def depthwise(
    rows: int, columns: int, channels: int, kernel: tuple[int, int], stride: int, width: int
) -> tuple[float, float]:
    """Returns the same of a depthwise convolution: ``width`` pixels in a row of its input."""
    height, reach = kernel
    if kernel == (5, 5) and stride <= 2:
        # groups at every fourth pixel, two vectors of taps for each shift, four channels at a time
        pixels, shifts = (16, 4) if stride == 1 else (14, 2)
        groups = (pixels - 1) // shifts + 2
        times = rows * columns / pixels * channels / 4
        laid_out = (rows * stride) * (width / 4) * (channels / 16) * (4 + 4)
        loads = 5 * (groups + 2 * shifts)
        return times * 2 * 5 * pixels, times * (loads + pixels) + laid_out
    vectors = {0: ceil(reach / 4), 1: ceil((reach + 1) / 4)}
    pixels = 4
    # groups of four pixels that the results read, and products of eight channels
    places = {
        (n * stride // 2) + 2 * i for n in range(pixels) for i in range(vectors[n * stride % 2])
    }
    dots = 2 * height * sum(vectors[n * stride % 2] for n in range(pixels))
    times = rows * columns / pixels * channels / EIGHT
    laid_out = (rows * stride) * (width / 2) * (channels / 16) * (2 + 4)
    return times * dots, times * (2 * height * len(places) + pixels) + laid_out


def implied(graph: QGraph, node: fx.Node, choices: dict[str, int]) -> tuple[float, float]:
    """Returns the dot products, and the loads and stores, that an operator's tiles imply."""
    out, source = sizes(node), sizes(node.all_input_nodes[0])
    dots, moves = 0.0, 0.0
    given_products = [given for given in product_arguments(node) if "weight" in given]
    if not given_products:
        size = type_of(node).dtype.itemsize
        reading = prod(source) * type_of(node.all_input_nodes[0]).dtype.itemsize
        return 0.0, (reading + prod(out) * size) / 16
    for given in given_products:
        weight = graph.constant(given["weight"])
        shape = list(weight.shape)
        groups = given.get("groups", 1)
        if len(shape) == 2:
            more = products(prod(out[:-1]), shape[0], 1, shape[1])
        elif is_depthwise(weight.shape, groups):
            stride = given["stride"][1]
            more = depthwise(out[2], out[3], out[1], (shape[2], shape[3]), stride, source[3])
        elif choices.get("by_rows"):
            more = products(out[2] * out[3], shape[0], shape[2], shape[1] * shape[3])
        else:
            # the first of two products has the pixels of the input
            pixels = prod((source if len(given_products) == 2 else out)[2:])
            more = products(pixels, shape[0], shape[2] * shape[3], shape[1])
        dots, moves = dots + more[0], moves + more[1]
        if given.get("residual") is not None:
            moves += prod(out) / 16 * 4
    return dots, moves


def show(program: ArmExecutable, graph: QGraph, counts: Mapping[str, int]) -> None:
    """Prints a row per operator, and the sum."""
    print("| operator | kernel | executed | dot products | loads and stores | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    total = [0.0, 0.0, 0.0]
    for op in program.sources.ops:
        if op.node not in counts:
            continue
        executed = counts[op.node]
        dots, moves = implied(graph, graph.node(op.node), dict(op.choices))
        total = [total[0] + executed, total[1] + dots, total[2] + moves]
        numbers = f"{executed:,} | {dots:,.0f} | {moves:,.0f} | {executed / (dots + moves):.2f}"
        print(f"| {op.node} | {op.kernel} | {numbers} |")
    ratio = total[0] / (total[1] + total[2])
    print(f"| all | | {total[0]:,.0f} | {total[1]:,.0f} | {total[2]:,.0f} | {ratio:.2f} |")


def main() -> None:
    """Counts a program's instructions."""
    parser = argparse.ArgumentParser(description="executed instructions beside implied ones")
    parser.add_argument("artifact", help="saved program whose graph is taken")
    parser.add_argument("--level", choices=LEVELS, default="dotprod")
    options = parser.parse_args()
    artifact: Any = read_artifact(options.artifact)
    graph = artifact.graph()
    graph.structure = artifact.manifest["structure"]
    random = torch.Generator().manual_seed(1)
    inputs = [torch.randn(sizes(node), generator=random) for node in graph.inputs]
    program = LEVELS[options.level]().build(graph)
    counts = program.profile(inputs).instructions
    if options.level == "dotprod":
        show(program, graph, counts)
        return
    print("| operator | kernel | executed |")
    print("| --- | --- | --- |")
    for op in program.sources.ops:
        if op.node in counts:
            print(f"| {op.node} | {op.kernel} | {counts[op.node]:,} |")
    print(f"| all | | {sum(counts.values()):,} |")


if __name__ == "__main__":
    main()
