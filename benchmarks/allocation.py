"""Mixed precision at the size of uniform widths: python -m benchmarks.allocation."""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

import qcompiler
from benchmarks.models import MODELS, calibration_images, random_images
from benchmarks.tables import write_table
from qcompiler import Program, Size, registry
from qcompiler.demo import CropBatches, sample_photos
from tests.assets import digits, load_mnist_net

# What is measured beside these needs no pretrained model: the networks of the comparison.
NAMES = ("mnist", "efficientnet_lite0", "mobilenet_v2", "resnet18", "resnet50")
_EVALUATED = 32


class Case(NamedTuple):
    """A model, its calibration data, and samples that are not among them."""

    model: nn.Module
    calibration: Sequence[Tensor]
    evaluation: Sequence[Tensor]


def case(name: str) -> Case:
    """Returns a model of NAMES with its data."""
    if name == "mnist":
        images = digits().images[torch.randperm(5000, generator=torch.Generator().manual_seed(0))]
        return Case(load_mnist_net(), list(images[:64].split(8)), list(images[64:1088].split(64)))
    if name == "efficientnet_lite0":
        crops = list(CropBatches(sample_photos(), count=_EVALUATED, seed=1))
        return Case(MODELS[name](), calibration_images(name), crops)
    evaluation = list(random_images(_EVALUATED, seed=100).split(8))
    return Case(MODELS[name](), calibration_images(name), evaluation)


def output_sqnr(
    model: nn.Module, program: Callable[[Tensor], Tensor], data: Iterable[Tensor]
) -> float:
    """Returns the signal-to-noise ratio of the results over all samples, in dB."""
    signal = noise = 0.0
    with torch.inference_mode():
        for x in data:
            expected = model(x).double()
            signal += float(expected.square().sum())
            noise += float((expected - program(x).double()).square().sum())
    return 10 * math.log10(signal / noise)


def uniform(one: Case, bits: int, pipeline: str) -> Program:
    """Returns the model with equal bits everywhere."""
    text = f"allocate-bits{{budget={bits} widths={bits} rounds=0 samples=1}},quantize-weights"
    return qcompiler.compile(
        one.model, one.calibration, pipeline=pipeline.replace("quantize-weights", text)
    )


def measure(name: str, bits: int, pipeline: str) -> list[str]:
    """Returns a row: uniform bits beside mixed ones of the same size."""
    one = case(name)
    plain = uniform(one, bits, pipeline)
    held = plain.allocation
    assert held is not None
    start = time.perf_counter()
    mixed = qcompiler.compile(
        one.model, one.calibration, pipeline=pipeline, budget=Size(held.bytes)
    )
    seconds = time.perf_counter() - start
    found = mixed.allocation
    assert found is not None
    before, after = (output_sqnr(one.model, p, one.evaluation) for p in (plain, mixed))
    return [
        name,
        f"{held.bytes / 1e3:.1f} kB",
        f"{bits}",
        f"{found.average_bits:.2f}",
        f"{100 * found.bytes / held.bytes:.2f} %",
        f"{before:.2f}",
        f"{after:.2f}",
        f"{after - before:+.2f}",
        found.chosen_by,
        f"{seconds:.0f}",
    ]


def main() -> None:
    """Measures the chosen models and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--pipeline", default="default", help="a named pipeline, or passes as text")
    arguments = parser.parse_args()

    text = registry.load(registry.PIPELINES, arguments.pipeline)
    heads = ("budget", "uniform bits", "mixed bits", "of the budget", "uniform dB", "mixed dB")
    rows = [["model", *heads, "gain dB", "chosen by", "compile s"]]
    for name in arguments.names:
        for bits in arguments.bits:
            rows.append(measure(name, bits, str(text)))
            print("  ".join(rows[-1]), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    notes = [
        f"output SQNR on {_EVALUATED} samples that calibration did not see (1024 of mnist); both",
        f"with the pipeline {arguments.pipeline}; peak memory of the process {peak:.2f} GB",
    ]
    write_table("allocation", "Mixed precision at the size of uniform bits", rows, notes=notes)


if __name__ == "__main__":
    main()
