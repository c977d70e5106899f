"""The digit network and EfficientNet-Lite0 for ARM: qemu computes what the reference does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import qcompiler
from qcompiler import Program
from qcompiler.api import resolve_target
from qcompiler.backends.arm.cross import emulator
from tests.assets import (
    CropBatches,
    center_crop,
    digits,
    labelled_photos,
    load_mnist_net,
    load_model,
    real_crops,
    sample_photos,
)

pytestmark = pytest.mark.e2e
CORES = ("cortex-a53", "cortex-a76", "neoverse-n1", "neoverse-v1")


@pytest.fixture(scope="module", params=CORES)
def digit_program(request: pytest.FixtureRequest) -> Program:
    """Returns the digit network for a core."""
    batches = [digits().images[:16], digits().images[4000:4016]]
    return qcompiler.compile(load_mnist_net(), batches, target=request.param)


def test_digits_equal_the_reference(digit_program: Program) -> None:
    for batch, threads in ((1, 1), (5, 2), (16, 4)):
        digit_program.num_threads = threads
        images = digits().images[100 : 100 + batch]
        assert torch.equal(digit_program(images), digit_program.reference(images))


def test_every_operator_of_the_digit_network(digit_program: Program) -> None:
    result = digit_program.verify()
    assert result, str(result)


def test_a_saved_program_gives_the_same(digit_program: Program, tmp_path: Path) -> None:
    digit_program.save(tmp_path / "digits.qcp")
    images = digits().images[:7]
    loaded = qcompiler.load(tmp_path / "digits.qcp")
    assert torch.equal(loaded(images), digit_program(images))


def test_the_exported_digit_network_equals_the_reference(tmp_path: Path) -> None:
    batches = [digits().images[:16], digits().images[4000:4016]]
    program = qcompiler.compile(load_mnist_net(), batches, target="cortex-a76")
    written = program.export_c(tmp_path, name="digits")
    assert set(written.memory) == {"flash", "ram"}
    assert program.graph.memory_plan is not None
    assert written.memory["ram"] <= 1.1 * program.graph.memory_plan.peak
    toolchain = "-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-gcc.cmake"
    for step in (["cmake", "-B", "build", toolchain], ["cmake", "--build", "build", "-j2"]):
        subprocess.run(step, cwd=tmp_path, check=True, capture_output=True)
    image = digits().images[123:124]
    image.numpy().tofile(tmp_path / "image.raw")
    command = [*emulator("cortex-a76"), "build/digits_example", "data/weights.bin"]
    subprocess.run([*command, "image.raw", "out.raw"], cwd=tmp_path, check=True)
    have = torch.from_numpy(np.fromfile(tmp_path / "out.raw", dtype=np.float32))
    assert torch.equal(have, program.reference(image).flatten())


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Returns three photos as the network takes them."""
    return torch.stack([center_crop(photo.image) for photo in labelled_photos()[:3]])


@pytest.fixture(scope="module")
def host_program() -> Program:
    """Returns EfficientNet-Lite0 for the host."""
    return qcompiler.compile(load_model(), CropBatches(sample_photos()), target="cpu")


def test_efficientnet_lite0_is_the_same_on_every_core(
    host_program: Program, photos: Tensor
) -> None:
    wanted = host_program.reference(photos)
    assert torch.equal(host_program(photos), wanted)
    for core in CORES:
        executable = resolve_target(core).build(host_program.graph)
        (have,) = executable.run([photos], 2)
        assert torch.equal(have, wanted), core


def test_crops_of_real_photos_are_the_same_on_cpu_and_reference(host_program: Program) -> None:
    """512 crops take minutes: ``benchmarks.arm_crops`` compares those."""
    crops, _ = real_crops(16)
    wanted = torch.cat([host_program.reference(part) for part in crops.split(8)])
    assert len(wanted.unique(dim=0)) == len(crops)
    assert torch.equal(host_program(crops), wanted)
    executable = resolve_target("armv8.2-a+dotprod").build(host_program.graph)
    (have,) = executable.run([crops], 2)
    assert torch.equal(have, wanted)
