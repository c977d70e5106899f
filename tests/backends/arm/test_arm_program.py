"""Whole programs for ARM under qemu: levels, batches, threads, callers, artifacts, failures."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from qcompiler.api import resolve_target
from qcompiler.backends.arm.executable import ArmExecutable, ArmTarget
from qcompiler.backends.arm.isa import LEVELS
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.verify import verify_executable
from tests.backends.test_native_program import small_network

CORES = ("cortex-a53", "cortex-a76", "neoverse-n1", "neoverse-v1")


def build(target: str, graph: QGraph) -> ArmExecutable:
    """Builds a graph for an ARM target given as text."""
    made = resolve_target(target).build(graph)
    assert isinstance(made, ArmExecutable)
    return made


def image(batch: int, seed: int = 1) -> torch.Tensor:
    """Returns images for the small network."""
    return torch.randn(batch, 3, 17, 15, generator=torch.Generator().manual_seed(seed))


def equal(have: list[torch.Tensor], want: tuple[torch.Tensor, ...]) -> bool:
    """Says whether all results are the same."""
    return len(have) == len(want) and all(map(torch.equal, have, want))


@pytest.mark.parametrize("target", CORES)
def test_every_operator_and_the_whole_equal_the_reference(target: str) -> None:
    network = small_network()
    program = build(target, network)
    result = verify_executable(network, program, [image(1)], 0, [[image(5)]])
    assert result, str(result)


@pytest.mark.parametrize(
    ("model", "level"), [("cortex-a53", "neon"), ("cortex-a76", "dotprod"), ("max", "i8mm")]
)
def test_a_fat_program_takes_the_best_level_of_the_core(model: str, level: str) -> None:
    network = small_network()
    program = build(f"armv8-fat{{emulate={model}}}", network)
    assert program.program.level() == level
    assert equal(program.run([image(2)], 1), network.run(image(2)))


def test_a_program_refuses_a_core_without_its_instructions() -> None:
    program = build("armv8.6-a+i8mm{emulate=cortex-a76}", small_network())
    with pytest.raises(QCompilerError) as caught:
        program.run([image(1)], 1)
    assert caught.value.code == "QC0823"
    assert "this processor has none of the instruction sets" in caught.value.problem


def test_callers_of_several_threads() -> None:
    network = small_network()
    program = build("cortex-a53", network)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: program.run([image(1, seed)], 2), range(8)))
    for seed, have in enumerate(results):
        assert equal(have, network.run(image(1, seed)))


def test_inputs_are_checked() -> None:
    program = build("cortex-a53", small_network())
    with pytest.raises(QCompilerError) as caught:
        program.run([torch.zeros(1, 3, 17, 16)], 1)
    assert caught.value.code == "QC0701"


def test_an_artifact_restores_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    files = build("cortex-a53", network).files()
    monkeypatch.setenv("QCOMPILER_AARCH64_CC", "no-such-compiler")
    restored = resolve_target("cortex-a53").restore(network, files)
    assert equal(restored.run([image(3)], 1), network.run(image(3)))
    assert restored.files() == files


def test_two_builds_are_the_same_bytes() -> None:
    assert (
        build("armv8-fat", small_network()).files() == build("armv8-fat", small_network()).files()
    )


def check_killed(program: ArmExecutable) -> None:
    """Kills the small network's process, and asserts that this is told and the next call runs."""
    program.run([image(1)], 1)
    process = program.program._process
    assert process is not None
    os.kill(process._child.pid, signal.SIGKILL)
    with pytest.raises(QCompilerError) as caught:
        program.run([image(1)], 1)
    assert caught.value.code == "QC0824"
    assert equal(program.run([image(1)], 1), small_network().run(image(1)))


def test_a_program_that_was_killed_says_so_and_starts_again() -> None:
    check_killed(build("cortex-a53", small_network()))


def test_instructions_are_counted_and_repeat() -> None:
    network = small_network()
    counts = {core: build(core, network).profile([image(1)]).instructions for core in CORES}
    again = build("cortex-a53", network).profile([image(1)]).instructions
    assert counts["cortex-a53"] == again
    calls = [node.name for node in network.calls]
    assert list(again) == [name for name in calls if name in again]
    assert {"quantize", "conv2d_requant", "dequantize"} <= set(again)
    assert min(again.values()) > 100
    # 24 x 3 x 3 x 3 products for each of 9 x 8 results, eight of them an instruction at best
    assert again["conv2d_requant"] > 24 * 27 * 9 * 8 / 8
    assert sum(counts["cortex-a53"].values()) > sum(counts["neoverse-n1"].values())


def _in_a_child(program: ArmExecutable, x: torch.Tensor) -> None:
    torch.set_num_threads(1)
    results = program.run([x], 1)
    os._exit(0 if len(results) == 3 else 1)


def test_a_forked_process_has_a_program_of_its_own() -> None:
    network = small_network()
    program = build("cortex-a53", network)
    program.run([image(1)], 1)
    child = multiprocessing.get_context("fork").Process(
        target=_in_a_child, args=(program, image(1))
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert equal(program.run([image(1)], 1), network.run(image(1)))


def test_signed_codes_have_no_constants_of_x86() -> None:
    target = resolve_target("armv8.6-a+i8mm")
    assert isinstance(target, ArmTarget)
    text = target.build(small_network()).sources.files["program.c"].decode()
    assert ".pairs = " in text
    for name in (".unsaturated = ", ".scale = (const float", "_u8"):
        assert name not in text
    assert [isa.name for isa in LEVELS] == ["neon", "dotprod", "i8mm"]
