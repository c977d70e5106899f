"""The digit network: accuracy, equality with the reference, determinism, saving and loading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qcompiler
from qcompiler import Program
from tests.assets import digits, load_mnist_net

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Returns the network in float."""
    return load_mnist_net()


@pytest.fixture(scope="module")
def program(model: nn.Module) -> Program:
    """Returns the network compiled for the host from 64 digits, with their labels beside them."""
    images, labels = digits()
    chosen = torch.arange(0, 5000, 78)[:64]
    batches = [(images[i], labels[i]) for i in chosen.split(16)]
    return qcompiler.compile(model, batches, target="cpu")


def test_accuracy_is_that_of_float(model: nn.Module, program: Program) -> None:
    images, labels = digits()
    with torch.inference_mode():
        fp32 = (model(images).argmax(1) == labels).double().mean().item()
    int8 = (program(images).argmax(1) == labels).double().mean().item()
    assert abs(fp32 - int8) <= 0.0005


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_native_equals_reference(program: Program, batch: int, threads: int) -> None:
    program.num_threads = threads
    images = digits().images[100 : 100 + batch]
    assert torch.equal(program(images), program.reference(images))


def test_verify_finds_no_difference(program: Program) -> None:
    result = program.verify()
    assert result, str(result)


def test_a_loaded_program_gives_the_same(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / "mnist.qcp")
    images = digits().images[:7]
    assert torch.equal(qcompiler.load(tmp_path / "mnist.qcp")(images), program(images))


_COMPILE = """
import sys, torch, qcompiler
from tests.assets import digits, load_mnist_net
batches = [digits().images[:16], digits().images[4000:4016]]
qcompiler.compile(load_mnist_net(), batches, target="cpu").save(sys.argv[1])
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.qcp"
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", _COMPILE, str(path)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        written.append(path.read_bytes())
    assert written[0] == written[1]
