"""What each pass gains on EfficientNet-Lite0: python -m benchmarks.pass_gains."""

from __future__ import annotations

import time

import torch
from rich.progress import track
from torch import Tensor

import qcompiler
from benchmarks.efficientnet_lite0 import agreement
from benchmarks.tables import write_table
from qcompiler.api import resolve_pipeline, resolve_target
from qcompiler.passmgr.options import split_pipeline
from tests.assets import (
    CropBatches,
    center_crop,
    corner_crops,
    labelled_photos,
    load_model,
    split_photos,
)

_TARGET = "cpu"
# Name of the row -> changes to the default pipeline: pass to replace -> text in its place.
VARIANTS: dict[str, dict[str, str]] = {
    "default pipeline": {},
    "no recovery: nearest weights, min-max ranges": {"round-weights": "", "correct-bias": ""},
    "with correct-bias alone": {"round-weights": ""},
    "with round-weights alone": {"correct-bias": ""},
    "round-weights{method=squant}": {"round-weights": "round-weights{method=squant}"},
    "quantize-weights{method=mse}": {"quantize-weights": "quantize-weights{method=mse}"},
    "equalize-layers before calibration": {
        "collect-statistics": "equalize-layers,collect-statistics"
    },
    "8-bit results: fold-requant{results=false}": {"fold-requant": "fold-requant{results=false}"},
    **{
        f"propagate-ranges{{method={method}}}": {
            "propagate-ranges": f"propagate-ranges{{method={method}}}"
        }
        for method in ("moving-average", "percentile", "mse", "kl", "octav")
    },
}


def variant(changes: dict[str, str]) -> str:
    """Returns the default pipeline's text with passes replaced."""
    default = str(resolve_pipeline(None, resolve_target(_TARGET)))
    names = [name for name, _ in split_pipeline(default)]
    return ",".join(text for name in names if (text := changes.get(name, name)))


def main() -> None:
    """Compiles with every variant and writes one row each."""
    model, split = load_model(), split_photos()
    batches = list(CropBatches(split.calibration))
    photos = labelled_photos()
    images = torch.stack([center_crop(photo.image) for photo in photos])
    labels = torch.tensor([photo.label for photo in photos])
    crops = [corner_crops(photo) for photo in split.evaluation]
    with torch.inference_mode():
        expected: dict[int, Tensor] = {id(batch): model(batch) for batch in crops}
        hits = int((model(images).argmax(1) == labels).sum())

    def reference(batch: Tensor) -> Tensor:
        return expected[id(batch)]

    rows = [["", f"top-1 of {len(photos)}", "agreement", "SQNR", "compile"]]
    rows.append(["fp32", str(hits), "", "", ""])
    for name, changes in track(VARIANTS.items(), "compiling"):
        start = time.perf_counter()
        program = qcompiler.compile(model, batches, target=_TARGET, pipeline=variant(changes))
        seconds = time.perf_counter() - start
        found = agreement(reference, program, crops)
        hits = int((program(images).argmax(1) == labels).sum())
        cells = (str(hits), f"{found.top1:.1%}", f"{found.sqnr:.1f} dB", f"{seconds:.1f} s")
        rows.append([name, *cells])
    title = (
        f"EfficientNet-Lite0, W8A8: {8 * len(split.evaluation)} mirrored corner crops, "
        f"64 calibration crops; photos of {split.source}"
    )
    write_table("pass_gains", title, rows)


if __name__ == "__main__":
    main()
