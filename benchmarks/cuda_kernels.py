"""Compiles every kernel of networks for GPUs ahead of time and lists what machine code they became.

    python -m benchmarks.cuda_kernels [--models resnet18,...] [--batches 1,256] [--output FOLDER]

Needs Triton and no GPU. Fails where a kernel spills registers, or a product has no matrix
instructions. The tables go to benchmarks/results/cuda_kernels_ARCHITECTURE.txt.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

import qcompiler
from benchmarks import models
from qcompiler.backends.cuda.aot import Compiled, compile_all
from qcompiler.backends.cuda.architectures import ARCHITECTURES
from qcompiler.backends.cuda.launch import Launch
from qcompiler.backends.cuda.lowering import lower
from qcompiler.backends.native.packing import Blob
from qcompiler.demo import load_model

RESULTS = Path(__file__).parent / "results"
PRODUCTS = ("conv2d_s8", "matmul_s8")


def network(name: str) -> torch.nn.Module:
    """Returns a network; weights of ResNets are random, the machine code is not made of them."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        return load_model()
    depths = {"resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]}[name]
    return models.resnet(depths, bottleneck=name == "resnet50").eval()


def launches_of(name: str, batches: list[int], architecture: str) -> Iterator[Launch]:
    """Yields the launches of a network for batches."""
    data = [torch.randn(1, 3, models.IMAGE_SIZE, models.IMAGE_SIZE) for _ in range(2)]
    target = f"cuda-{architecture.replace('_', '')}"
    graph = qcompiler.compile(network(name), data, target=target).graph
    for batch in batches:
        sizes = dict.fromkeys(graph.symbols, batch)
        yield from lower(graph, sizes, Blob(), ARCHITECTURES[architecture]).launches


def row(kernel: Compiled) -> str:
    """Returns a line of the table."""
    code = kernel.machine_code()
    counts = [code.count(f" {name}.") for name in ("IMMA", "IGMMA", "LDGSTS", "STL", "LDL")]
    launch = kernel.launch
    label = f"{launch.node} {launch.label()}"
    return f"{label:78} {kernel.registers:5} {kernel.shared:7} " + " ".join(
        f"{count:6}" for count in counts
    )


def problems(kernel: Compiled) -> Iterator[str]:
    """Yields what is wrong with a kernel."""
    code = kernel.machine_code()
    if "STL" in code:
        yield f"{kernel.launch.node} {kernel.launch.label()} spills registers"
    if kernel.launch.kernel in PRODUCTS and "IMMA." not in code and "IGMMA." not in code:
        yield f"{kernel.launch.node} {kernel.launch.label()} has no matrix instructions"


def main() -> None:
    """Writes one table for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="resnet18,resnet50,efficientnet_lite0")
    parser.add_argument("--batches", default="1,256")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    found: list[str] = []
    for architecture in options.architectures.split(","):
        launches = [
            launch
            for name in options.models.split(",")
            for launch in launches_of(name, batches, architecture)
        ]
        made = compile_all(launches, ARCHITECTURES[architecture])
        names = " ".join(f"{n:>6}" for n in ("IMMA", "IGMMA", "LDGSTS", "STL", "LDL"))
        lines = [f"{'node and kernel':78} {'regs':>5} {'shared':>7} {names}", *map(row, made)]
        title = f"Kernels of {options.models} at batch {options.batches} for {architecture}"
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"cuda_kernels_{architecture}.txt"
        path.write_text("\n".join([title, "", *lines]) + "\n", encoding="utf-8")
        print(f"{path}: {len(made)} kernels", flush=True)
        found += [f"{architecture}: {line}" for kernel in made for line in problems(kernel)]
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
