"""Outputs of EfficientNet-Lite0 on real crops: on the host, in the reference, and for ARM.

    python -m benchmarks.arm_crops model.qcp [--crops 512] [--target cortex-a53 ...]

``model.qcp`` is a saved program of the network, whose graph and weights all targets take. Logits
are one float product of each int32 sum of the last layer: equal logits are equal integers. Crops
are those of ``tests.assets.real_crops``: of 31 packaged photos, and of more where ASSETS_DIR names
a folder of them.
"""

from __future__ import annotations

import argparse
import sys

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.tables import write_table
from qcompiler.api import resolve_target
from qcompiler.runtime.artifact import read_artifact
from tests.assets import real_crops

TARGETS = ("cpu", "armv8.2-a+dotprod")
BATCH = 16


def main() -> None:
    """Prints and keeps a row per target; ends with status 1 where one differs."""
    parser = argparse.ArgumentParser(description="equal outputs on real crops")
    parser.add_argument("artifact")
    parser.add_argument("--crops", type=int, default=512)
    parser.add_argument("--target", action="append")
    parser.add_argument("--name", default="arm_crops", help="of the file of the table")
    options = parser.parse_args()
    artifact = read_artifact(options.artifact)
    graph = artifact.graph()
    graph.structure = artifact.manifest["structure"]
    crops, photos = real_crops(options.crops)
    parts = crops.split(BATCH)
    console = Console(stderr=True)
    wanted = torch.cat([graph.run(part)[0] for part in track(parts, "reference", console=console)])
    rows = [["reference", f"{len(crops)}", "", "", _labels(wanted)]]
    for name in options.target or TARGETS:
        program = resolve_target(name).build(graph)
        have = torch.cat(
            [program.run([part], 2)[0] for part in track(parts, name, console=console)]
        )
        same = int((have == wanted).all(1).sum())
        most = float((have - wanted).abs().max())
        rows.append([name, f"{len(crops)}", f"{same}", f"{most:g}", _labels(have)])
    heads = ["target", "different crops", "equal to the reference", "largest difference", "classes"]
    title = f"EfficientNet-Lite0 on {len(crops)} different crops of {photos} real photos"
    write_table(options.name, title, [heads, *rows])
    if any(row[2] not in ("", row[1]) for row in rows):
        sys.exit(1)


def _labels(logits: Tensor) -> str:
    """Returns the number of classes that are told, which many different crops make large."""
    return f"{len(logits.argmax(1).unique())}"


if __name__ == "__main__":
    main()
