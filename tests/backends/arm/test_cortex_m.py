"""Whole programs on Cortex-M machines of qemu: equal to the reference, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler import Program
from qcompiler.backends.arm import bare
from qcompiler.backends.arm.remote import OPERATOR
from qcompiler.errors import QCompilerError
from qcompiler.runtime.verify import verify_executable
from tests.assets import digits, load_mnist_net
from tests.backends.arm.test_arm_program import build, check_killed, equal, image
from tests.backends.test_native_program import small_network

CORES = ("cortex-m4", "cortex-m33", "cortex-m55")


@pytest.mark.parametrize("core", CORES)
def test_every_operator_and_the_whole_equal_the_reference(core: str) -> None:
    network = small_network()
    result = verify_executable(network, build(core, network), [image(1)], 0, [[image(5)]])
    assert result, str(result)


@pytest.fixture(scope="module", params=CORES)
def digit_program(request: pytest.FixtureRequest) -> Program:
    """Returns the digit network for a core."""
    batches = [digits().images[:16], digits().images[4000:4016]]
    return qcompiler.compile(load_mnist_net(), batches, target=request.param)


def test_digits_equal_the_reference(digit_program: Program, tmp_path: Path) -> None:
    images = digits().images[100:109]
    assert torch.equal(digit_program(images), digit_program.reference(images))
    digit_program.save(tmp_path / "digits.qcp")
    assert torch.equal(
        qcompiler.load(tmp_path / "digits.qcp")(images[:2]), digit_program(images[:2])
    )


def test_instructions_of_the_digit_network_are_counted_and_repeat(digit_program: Program) -> None:
    first = digit_program.bench(digits().images[:1], rounds=1).instructions
    assert first == digit_program.bench(digits().images[:1], rounds=1).instructions
    convolutions = [count for node, count in first.items() if node.startswith("conv2d")]
    # 3.6 million products in the larger convolution, sixteen of them an instruction at best
    assert max(convolutions) > 3.6e6 / 16


@pytest.mark.parametrize(
    ("target", "machine"), [("cortex-m55", "mps2-an386"), ("cortex-m55", "mps2-an505")]
)
def test_a_program_refuses_a_processor_without_its_instructions(target: str, machine: str) -> None:
    program = build(f"{target}{{emulate={machine}}}", small_network())
    with pytest.raises(QCompilerError) as caught:
        program.run([image(1)], 1)
    assert caught.value.code == "QC0823"


def test_an_unknown_machine() -> None:
    with pytest.raises(QCompilerError) as caught:
        build("cortex-m55{emulate=mps3-an546}", small_network())
    assert caught.value.code == "QC0502"
    assert "mps3-an547" in caught.value.remedy


def test_inputs_are_checked() -> None:
    with pytest.raises(QCompilerError) as caught:
        build("cortex-m4", small_network()).run([torch.zeros(1, 3, 17, 16)], 1)
    assert caught.value.code == "QC0701"


def test_memory_that_the_machine_does_not_have() -> None:
    """Images of 64 samples fit, tensors of more than the machine's memory do not."""
    program = build("cortex-m4", small_network())
    with pytest.raises(QCompilerError) as caught:
        program.program.run_op("quantize", [torch.zeros(30_000, 3, 17, 15)])
    assert caught.value.code == "QC0824"
    assert "out of memory" in caught.value.problem
    assert equal(program.run([image(1)], 1), small_network().run(image(1)))


def test_a_machine_that_was_killed_says_so_and_starts_again() -> None:
    check_killed(build("cortex-m55", small_network()))


def test_a_fault_is_told_with_its_address() -> None:
    """An operator that is not there is a jump to nowhere."""
    program = build("cortex-m4", small_network())
    with pytest.raises(QCompilerError) as caught:
        program.program._ask((OPERATOR, 1_000_000, 1), {}, [], [], -1, 0)
    assert caught.value.code == "QC0824"
    assert "status 5: fault: " in caught.value.problem
    assert " at pc 0x" in caught.value.problem
    assert equal(program.run([image(1)], 1), small_network().run(image(1)))


def test_a_machine_ends_with_its_program() -> None:
    program = build("cortex-m33", small_network())
    program.run([image(1)], 1)
    process = program.program._process
    assert process is not None
    child = process._child
    process._finalizer()
    assert child.returncode == 0


def test_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    program = build("cortex-m4", small_network())
    monkeypatch.setenv(bare.EMULATOR, "no-such-emulator")
    with pytest.raises(QCompilerError) as caught:
        program.run([image(1)], 1)
    assert caught.value.code == "QC0822"
    assert "qemu-system-arm" in caught.value.remedy


def test_no_compiler_leaves_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bare.COMPILER, "no-such-compiler")
    program = build("cortex-m4", small_network())
    with pytest.raises(QCompilerError) as caught:
        program.run([image(1)], 1)
    assert caught.value.code == "QC0821"
    assert "gcc-arm-none-eabi" in caught.value.remedy
    assert "src/model.c" in program.project("model", weights_array=False)


def test_gcc_gives_the_reference_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bare.COMPILER, "arm-none-eabi-gcc")
    program = build("cortex-m55", small_network())
    assert equal(program.run([image(2)], 1), small_network().run(image(2)))
