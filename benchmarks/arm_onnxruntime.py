"""Executed instructions of an image by ONNX Runtime's aarch64 wheel, beside qcompiler's.

ONNX Runtime runs its own quantization of the network (per channel, static, as in
``benchmarks.compare``): the work is the same, the integers are not. Both take a float image and
return float logits. Python and the wheel run under qemu-aarch64 in a folder of arm64 packages; the
instructions of an image are those of a process that computes three, less those of one that
computes one, halved. The last release that starts under qemu 7.2 is 1.20.1; 1.32.0 ends with a
segmentation fault while it is imported.

The folder, with apt and pip on Debian 12 (dpkg is not touched):

    mkdir -p build/arm64/{state/lists/partial,cache/archives/partial,root,site}
    touch build/arm64/state/status
    apt="-o Dir::State=$PWD/build/arm64/state -o Dir::State::status=$PWD/build/arm64/state/status
        -o Dir::Cache=$PWD/build/arm64/cache -o APT::Architecture=arm64
        -o APT::Architectures=arm64"
    apt-get $apt update
    (cd build/arm64/cache && apt-get $apt download python3.11-minimal libpython3.11-minimal \\
        libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 zlib1g libexpat1 libffi8 libbz2-1.0 \\
        liblzma5 libssl3 libuuid1)
    for package in build/arm64/cache/*.deb; do dpkg -x "$package" build/arm64/root; done
    pip download --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \\
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \\
        --platform manylinux2014_aarch64 -d build/arm64/site onnxruntime==1.20.1
    for wheel in build/arm64/site/*.whl; do unzip -qo "$wheel" -d build/arm64/site; done
    python -m benchmarks.arm_onnxruntime program.qcp model.onnx --root build/arm64/root \\
        --site build/arm64/site

``program.qcp`` and ``model.onnx`` are those that ``benchmarks.compare`` keeps in its cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import torch

from benchmarks.executed import executed, executed_here
from qcompiler.backends.arm.cross import emulator
from qcompiler.backends.arm.target import DotprodTarget
from qcompiler.runtime.artifact import read_artifact

# Runs in the other Python: a model, a number of images.
SCRIPT = """
import sys
import numpy
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
model = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = numpy.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(numpy.float32)
for _ in range(int(sys.argv[2])):
    model.run(None, {model.get_inputs()[0].name: image})
"""


def main() -> None:
    """Prints both counts and their ratio."""
    parser = argparse.ArgumentParser(description="executed instructions beside ONNX Runtime's")
    parser.add_argument("artifact", help="saved program whose graph is taken")
    parser.add_argument("model", help="int8 model of ONNX Runtime")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--site", type=Path, required=True)
    chosen = parser.parse_args()
    artifact = read_artifact(chosen.artifact)
    graph = artifact.graph()
    graph.structure = artifact.manifest["structure"]
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    here = executed_here(DotprodTarget().build(graph), [image])
    python = str(chosen.root / "usr" / "bin" / "python3.11")
    environment = {**os.environ, "PYTHONPATH": str(chosen.site)}
    qemu = (*emulator("neoverse-n1"), "-L", str(chosen.root))

    def run(images: int, plugin: str) -> None:
        words = (python, "-S", "-c", SCRIPT, chosen.model, str(images))
        subprocess.run([*qemu, "-plugin", plugin, *words], env=environment, capture_output=True)

    there = executed(run)
    print("| system | executed | ratio |")
    print("| --- | --- | --- |")
    print(f"| ONNX Runtime | {there:,} | |")
    print(f"| qcompiler | {here:,} | {here / there:.3f} |")


if __name__ == "__main__":
    main()
