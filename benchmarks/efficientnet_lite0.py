"""Accuracy of EfficientNet-Lite0 in int8: python -m benchmarks.efficientnet_lite0."""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor, nn

import qcompiler
from benchmarks.tables import write_table
from tests.assets import (
    CropBatches,
    PhotoSplit,
    center_crop,
    corner_crops,
    labelled_photos,
    load_model,
    split_photos,
)

Run = Callable[[Tensor], Tensor]


class Agreement(NamedTuple):
    """How close a second network's logits are to the first one's."""

    top1: float  # share of inputs with the same class
    sqnr: float  # signal to quantization noise of the logits, in dB


def agreement(reference: Run, compared: Run, batches: Iterable[Tensor]) -> Agreement:
    """Compares two networks on batches of images."""
    same, count, signal, noise = 0, 0, 0.0, 0.0
    for images in batches:
        expected, actual = reference(images).double(), compared(images).double()
        same += int((expected.argmax(1) == actual.argmax(1)).sum())
        count += len(images)
        signal += float(expected.square().sum())
        noise += float((expected - actual).square().sum())
    return Agreement(same / count, 10 * math.log10(signal / noise))


def accuracy(model: nn.Module, program: Run, split: PhotoSplit) -> list[list[str]]:
    """Returns rows: top-1 on the labelled photos, agreement and SQNR on crops of other photos."""
    photos = labelled_photos()
    images = torch.stack([center_crop(photo.image) for photo in photos])
    labels = torch.tensor([photo.label for photo in photos])
    rows = [["", "fp32", "int8"]]
    hits = [int((run(images).argmax(1) == labels).sum()) for run in (model, program)]
    rows.append([f"top-1 on {len(photos)} labelled photos", *(str(hit) for hit in hits)])
    others = split.evaluation
    corners = [corner_crops(photo) for photo in others]
    random = CropBatches(others, count=8 * len(others), seed=1)
    for name, batches in (("corner crops, mirrored", corners), ("random crops", random)):
        found = agreement(model, program, track(list(batches), "comparing"))
        what = f"{8 * len(others)} {name}, {len(others)} photos of {split.source}"
        rows.append([f"top-1 agreement: {what}", "", f"{found.top1:.1%}"])
        rows.append(["output SQNR on these", "", f"{found.sqnr:.1f} dB"])
    return rows


def main() -> None:
    """Compiles the model, measures it, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=int, default=64, help="number of calibration crops")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pipeline", help="passes as text instead of the default ones")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    model = load_model()
    split = split_photos()
    batches = list(CropBatches(split.calibration, count=arguments.calibration))
    start = time.perf_counter()
    program = qcompiler.compile(
        model,
        batches,
        target="cpu",
        pipeline=arguments.pipeline,
        progress=True,
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    program.num_threads = arguments.threads

    with torch.inference_mode():
        rows = accuracy(model, program, split)
        crops = f"{arguments.calibration} crops of {len(split.calibration)} photos"
        rows.append([f"compile with {crops}", "", f"{seconds:.1f} s"])
        rows.append(["peak memory of the process until then", "", f"{peak:.2f} GB"])
        write_table("efficientnet_lite0_accuracy", "EfficientNet-Lite0, W8A8", rows)


if __name__ == "__main__":
    main()
