"""Weights and activations of few bits: python -m benchmarks.low_bits."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn

import qcompiler
from benchmarks.efficientnet_lite0 import agreement
from benchmarks.tables import write_table
from qcompiler.numerics.groups import group_scales, spread_factors
from qcompiler.numerics.rounding import WeightMethod, integer_limits, weight_scales
from qcompiler.passes.pipelines import DEFAULT
from tests.assets import (
    CropBatches,
    corner_crops,
    digits,
    load_mnist_net,
    load_model,
    split_photos,
)

DIGITS = ("w8a8", "w4a8", "w3a8", "w2a8", "w2g64a8", "w2g32a8", "w8a4", "w4a4")
PHOTOS = ("w8a8", "w6a8", "w5a8", "w4a8", "w4g64a8", "w4g32a8", "w3g32a8")
# Rounding to nearest: the default pipeline without the pass that rounds by the results' error.
_NEAREST = "nearest weights"


def size_of(program: qcompiler.Program) -> int:
    """Returns the bytes of a program's artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.qcp"
        program.save(path)
        return path.stat().st_size


def weight_bytes(program: qcompiler.Program) -> int:
    """Returns the bytes of all weights as the artifact stores them."""
    return sum(row.stored for row in program.report().rows)


def on_digits(schemes: Sequence[str]) -> None:
    """Measures the digit network on 5,000 digits and writes a table."""
    model, (images, labels) = load_mnist_net(), digits()
    chosen = torch.arange(0, 5000, 78)[:64]
    batches = [images[i] for i in chosen.split(16)]
    with torch.inference_mode():
        hits = int((model(images).argmax(1) == labels).sum())
    rows = [["", "correct of 5000", "points below fp32", "weights", "artifact"]]
    rows.append(["fp32", str(hits), "", "", ""])
    for scheme in track(schemes, "digits"):
        program = qcompiler.compile(model, batches, scheme=scheme)
        found = int((program(images).argmax(1) == labels).sum())
        sizes = (f"{size / 1e3:.1f} kB" for size in (weight_bytes(program), size_of(program)))
        rows.append([scheme, str(found), f"{(hits - found) / 50:.2f}", *sizes])
    write_table("low_bits_digits", "digit network, 64 calibration digits, target cpu", rows)


def on_photos(schemes: Sequence[str]) -> None:
    """Measures EfficientNet-Lite0 against its float model on crops, and writes a table."""
    model, split = load_model(), split_photos()
    batches = list(CropBatches(split.calibration))
    crops = [corner_crops(photo) for photo in split.evaluation]
    with torch.inference_mode():
        expected = {id(batch): model(batch) for batch in crops}
    rows = [["", "agreement", "SQNR", "weights", "artifact", "compile"]]
    nearest = DEFAULT.replace("round-weights,", "")
    variants: list[tuple[str, str | None, str | None]] = [(s, s, None) for s in schemes]
    variants += [(f"{s}, {_NEAREST}", s, nearest) for s in ("w4a8", "w4g32a8") if s in schemes]
    for name, scheme, pipeline in track(variants, "photos"):
        start = time.perf_counter()
        program = qcompiler.compile(model, batches, scheme=scheme, pipeline=pipeline)
        seconds = time.perf_counter() - start
        found = agreement(lambda batch: expected[id(batch)], program, crops)
        sizes = (f"{size / 1e6:.2f} MB" for size in (weight_bytes(program), size_of(program)))
        cells = (f"{found.top1:.1%}", f"{found.sqnr:.1f} dB", *sizes, f"{seconds:.0f} s")
        rows.append([name, *cells])
    title = (
        f"EfficientNet-Lite0: {8 * len(split.evaluation)} mirrored corner crops, 64 calibration"
        f" crops, target cpu; photos of {split.source}"
    )
    write_table("low_bits", title, rows)


def on_weights() -> None:
    """Compares forms of the scales of groups on weights, by their mean SQNR over layers."""
    layers = list(_matrices(load_model()))
    rows = [["bits", "group", "one scale per channel", "factors 1, 2, 4 ...", "u8 factors", "real"]]
    for bits in (2, 3, 4, 5, 6):
        for group in (32, 64, 128):
            sums = torch.zeros(4, dtype=torch.float64)
            for weight in layers:
                sums += torch.tensor(_forms(weight, bits, group), dtype=torch.float64)
            means = [f"{value:.2f} dB" for value in (sums / len(layers)).tolist()]
            rows.append([str(bits), str(group), *means])
    title = (
        f"SQNR of weights, mean over the {len(layers)} pointwise and linear layers, nearest codes"
    )
    write_table("low_bits_scales", title, rows)


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    """Yields the weights of pointwise and linear layers that have several groups of 128."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach().flatten(1)
            if weight.shape[1] > 128:
                yield weight.to(torch.float64)


def _forms(weight: Tensor, bits: int, group: int) -> list[float]:
    """Returns the SQNR of weights with each form of scales, chosen for least squared error."""
    method: WeightMethod = "mse"
    inputs = weight.shape[1]
    channels = weight_scales(weight, 0, bits, True, method)[:, None].expand_as(weight)
    scale, factors = group_scales(weight, group, bits, method)
    ours = spread_factors(factors, group, inputs) * scale[:, None]
    powers = 2.0 ** torch.log2(factors.double()).round()
    shifts = spread_factors(powers, group, inputs) * scale[:, None]
    whole = nn.functional.pad(weight, (0, -inputs % group)).view(-1, group)
    real = weight_scales(whole, 0, bits, True, method).view(len(weight), -1)
    return [
        _sqnr(weight, steps, bits)
        for steps in (channels, shifts, ours, spread_factors(real, group, inputs))
    ]


def _sqnr(weight: Tensor, steps: Tensor, bits: int) -> float:
    low, high = integer_limits(bits, narrow=True)
    error = (weight / steps).round().clamp(low, high) * steps - weight
    return 10 * math.log10(float(weight.square().sum() / error.square().sum()))


def main() -> None:
    """Measures what is asked for, everything by default, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="digits, photos or scales")
    parser.add_argument("--schemes", nargs="*", help="schemes instead of the usual ones")
    arguments = parser.parse_args()
    what = arguments.what or ["digits", "photos", "scales"]
    if "digits" in what:
        on_digits(arguments.schemes or DIGITS)
    if "photos" in what:
        on_photos(arguments.schemes or PHOTOS)
    if "scales" in what:
        on_weights()


if __name__ == "__main__":
    main()
