"""Executed instructions of an image beside IREE's for the same integer graph, with dot products.

Both run under qemu-aarch64 and its counting plugin; the instructions of an image are those of a
process that computes several, less those of one that computes one, so that starting and loading
weights do not count. Both take the codes of an image and return the int32 sums of the last layer;
what qcompiler spends on quantizing and dequantizing is taken off. IREE's integers have to be the
reference's, or its row says that they are not.

    python -m venv build/iree
    build/iree/bin/python -m pip install iree-base-compiler==3.13.0
    python -m pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \\
        --python-version 3.11 --implementation cp -d build iree-base-runtime==3.13.0
    python -m zipfile -e build/iree_base_runtime-*_aarch64.whl build/iree-aarch64
    python -m benchmarks.arm_iree model.qcp --peer-python build/iree/bin/python \\
        --peer-runtime build/iree-aarch64
"""

from __future__ import annotations

import argparse
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.executed import LIBRARIES, Failure, executed, executed_here
from benchmarks.iree_graph import RESCALES, IntegerModule
from qcompiler.backends.arm.cross import emulator
from qcompiler.backends.arm.target import DotprodTarget
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.artifact import read_artifact

BORDER = ("quantize", "dequantize_accumulator")
TARGET = (
    "--iree-hal-target-backends=llvm-cpu",
    "--iree-llvmcpu-target-triple=aarch64-linux-gnu",
    "--iree-llvmcpu-target-cpu=neoverse-n1",
)
TILING, UKERNELS, O3 = "opt-data-tiling", "llvmcpu-enable-ukernels=all", "opt-level=O3"
LOOPS = ("llvmcpu-loop-unrolling", "llvmcpu-slp-vectorization")
MORE_LOOPS = (*LOOPS, "llvmcpu-loop-vectorization", "llvmcpu-loop-interleaving")
WIDE = "llvmcpu-target-vector-width-in-bytes=64"
IM2COL = "preprocessing-pass-pipeline=builtin.module(util.func({}))"
# Options without their "--iree-"; the set with the fewest instructions has a name.
BEST = (TILING, UKERNELS, *MORE_LOOPS, WIDE, "llvmcpu-distribution-size=256")
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    (O3,),
    (TILING,),
    (TILING, UKERNELS),
    (TILING, UKERNELS, O3),
    ("dispatch-creation-data-tiling", UKERNELS, O3),
    (TILING, UKERNELS, O3, "dispatch-creation-enable-aggressive-fusion"),
    (TILING, UKERNELS, "dispatch-creation-enable-fuse-padding-into-linalg-consumer-ops"),
    (TILING, *LOOPS),
    (TILING, UKERNELS, *LOOPS),
    (TILING, UKERNELS, *MORE_LOOPS),
    (TILING, UKERNELS, *LOOPS, WIDE),
    (TILING, *MORE_LOOPS, WIDE),
    (TILING, UKERNELS, *MORE_LOOPS, WIDE),
    (TILING, UKERNELS, *MORE_LOOPS, WIDE, O3),
    (TILING, UKERNELS, *MORE_LOOPS, "llvmcpu-target-vector-width-in-bytes=128"),
    BEST,
    (
        TILING,
        UKERNELS,
        *MORE_LOOPS,
        WIDE,
        IM2COL.format("iree-global-opt-convert-conv2d-to-img2col"),
    ),
)


class Peer:
    """IREE: its compiler in an environment of its own, its runtime from the wheel for aarch64."""

    def __init__(self, python: Path, runtime: Path, folder: Path, want: torch.Tensor) -> None:
        self._compile = [str(python.parent / "iree-compile"), *TARGET]
        self._tools = runtime / "iree" / "_runtime_libs"
        self._folder = folder
        self._want = want.numpy()
        for tool in ("iree-run-module", "iree-benchmark-module"):
            path = self._tools / tool
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def measure(self, module: Path, options: Iterable[str]) -> tuple[int, bool]:
        """Returns the instructions of an image, and whether the result is the reference's.

        Raises:
            Failure: IREE compiled or ran it with an error.
        """
        built, out = self._folder / "module.vmfb", self._folder / "out.npy"
        flags = [f"--iree-{option}" for option in options]
        _call([*self._compile, *flags, str(module), "-o", str(built)])
        common = [
            *("--device=local-sync", f"--module={built}", "--function=main"),
            f"--input=@{self._folder / 'in.npy'}",
        ]
        qemu = (*emulator("neoverse-n1"), "-L", LIBRARIES)
        _call([*qemu, str(self._tools / "iree-run-module"), *common, f"--output=@{out}"])

        def run(images: int, plugin: str) -> None:
            tool = str(self._tools / "iree-benchmark-module")
            command = [*qemu, "-plugin", plugin, tool, *common, f"--benchmark_min_time={images}x"]
            subprocess.run(command, capture_output=True)

        return executed(run), bool(np.array_equal(np.load(out), self._want))


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise Failure(lines[0].rpartition("error: ")[2][:100])


def main() -> None:
    """Prints a row per set of options, and the ratio to IREE's best."""
    parser = argparse.ArgumentParser(description="executed instructions beside those of IREE")
    parser.add_argument("artifact", help="saved program whose graph is taken")
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--peer-runtime", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="the best set of options alone")
    chosen = parser.parse_args()
    artifact = read_artifact(chosen.artifact)
    graph: QGraph = artifact.graph()
    graph.structure = artifact.manifest["structure"]
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    values = {
        str(node.target).split(".")[1]: x
        for node, x in graph.trace(image)
        if node.op == "call_function"
    }
    executable = DotprodTarget().build(graph)
    (have,) = executable.run([image], 1)
    if not torch.equal(have, values["dequantize_accumulator"]):
        sys.exit("qcompiler's result is not the reference's")
    counts = executable.profile([image]).instructions
    border = sum(count for node, count in counts.items() if node in BORDER)
    whole = executed_here(executable, [image])
    inner = whole - border
    print(
        f"qcompiler: {inner:,}, of a whole run of {whole:,} less {border:,} at the border in float"
    )
    print()
    print("| rescale | options (--iree-...) | executed | reference's integers | qcompiler / IREE |")
    print("| --- | --- | --- | --- | --- |")
    best = 0
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as name:
        folder = Path(name)
        np.save(folder / "in.npy", values["quantize"].permute(0, 2, 3, 1).contiguous().numpy())
        peer = Peer(chosen.peer_python, chosen.peer_runtime, folder, values["linear"])
        for rescale in RESCALES:
            module = folder / f"{rescale}.mlir"
            module.write_text(IntegerModule(graph, rescale).text(), encoding="ascii")
            for options in (BEST,) if chosen.quick else OPTIONS:
                head = f"| {rescale} | {' '.join(options) or 'none'}"
                try:
                    count, equal = peer.measure(module, options)
                except Failure as failure:
                    print(f"{head} | {failure} | | |", flush=True)
                    continue
                said = "equal" if equal else "DIFFERENT"
                print(f"{head} | {count:,} | {said} | {inner / count:.3f} |", flush=True)
                if equal and (not best or count < best):
                    best = count
    print()
    print(f"IREE's best: {best:,}; qcompiler executes {inner / best:.3f} of that")


if __name__ == "__main__":
    main()
