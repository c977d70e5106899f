"""Threads of native programs: the pool itself, forks, concurrent calls, busy processors."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.cpu.target import CpuExecutable
from qcompiler.backends.native import runtime
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import find_compiler
from qcompiler.ir.graph import QGraph
from qcompiler.target.base import Run
from tests.backends.helpers import LEVELS, case, compile_graph
from tests.backends.helpers import build_graph as graph_of
from tests.backends.test_native_program import small_network

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def network() -> QGraph:
    """A network whose batch threads share, with results in floating point and in integers."""
    return small_network()


@pytest.fixture(scope="module")
def program(network: QGraph) -> CpuExecutable:
    """The network, built."""
    return CpuTarget().build(network)


def same(one: list[torch.Tensor] | tuple[torch.Tensor, ...], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def build_stress(folder: Path, *flags: str) -> Path | None:
    """Compiles the pool with a program that strains it; None where the flags do not link."""
    for name in ("qc.h", "threads.c"):
        (folder / name).write_bytes(kernel_sources()[name])
    source = str(Path(__file__).with_name("pool_stress.c"))
    command = [*find_compiler().command, "-O1", "-g", "-std=gnu11", "-pthread", *flags]
    command += ["-I.", "-o", "stress", source, "threads.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return None if done.returncode else folder / "stress"


def test_the_pool_runs_every_part_once_also_in_child_processes(tmp_path: Path) -> None:
    stress = build_stress(tmp_path, "-Wall", "-Wextra", "-Werror")
    assert stress is not None
    done = subprocess.run([stress, "20"], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr


def test_the_pool_has_no_data_race(tmp_path: Path) -> None:
    stress = build_stress(tmp_path, "-fsanitize=thread", "-Wno-tsan")
    if stress is None:
        pytest.skip("the compiler has no thread sanitizer")
    done = subprocess.run([stress], capture_output=True, text=True, timeout=300)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not run with this layout of memory")
    assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr


def test_processes_forked_while_calls_run_can_call(network: QGraph, tmp_path: Path) -> None:
    image = torch.randn(5, 3, 17, 15)
    torch.save([image, *network.run(image)], tmp_path / "values.pt")
    script = f"""
import os, threading, warnings, torch
from tests.backends.test_native_threads import CpuTarget, same, small_network
torch.set_num_threads(1)
warnings.simplefilter("ignore")  # forks of processes with threads are what is tested
image, *expected = torch.load({str(tmp_path / "values.pt")!r})
program = CpuTarget().build(small_network())
stop, wrong = threading.Event(), []
def call():
    while not stop.is_set():
        if not same(expected, program.run([image], 2)):
            wrong.append(True)
callers = [threading.Thread(target=call) for _ in range(2)]
for caller in callers:
    caller.start()
codes = []
for threads in (1, 2, 3, 2, 4):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(same(expected, program.run([image], threads)) for _ in range(5)) else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for caller in callers:
    caller.join()
print(codes, wrong)
"""
    assert in_process(script) == "[0, 0, 0, 0, 0] []\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_workers_without_a_processor_of_their_own_do_not_stall_the_caller() -> None:
    script = """
import os, torch
from tests.backends.test_native_threads import CpuTarget, same, small_network
network = small_network()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
program = CpuTarget().build(network)
image = torch.randn(9, 3, 17, 15)
expected = network.run(image)
print(all(same(expected, program.run([image], 4)) for _ in range(50)))
"""
    assert in_process(script) == "True\n"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs a list of threads")
def test_each_program_keeps_a_pool_of_its_own_and_the_pools_work_at_once() -> None:
    script = """
import os, torch
from concurrent.futures import ThreadPoolExecutor
from tests.backends.test_native_threads import CpuTarget, same, small_network
network, image = small_network(), torch.randn(5, 3, 17, 15)
expected = network.run(image)
programs = [CpuTarget().build(network) for _ in range(2)]
threads = []
for program in programs:
    before = len(os.listdir("/proc/self/task"))
    right = [same(expected, program.run([image], 3)) for _ in range(5)]
    threads.append(len(os.listdir("/proc/self/task")) - before)
def call(program):
    return all(same(expected, program.run([image], 3)) for _ in range(50))
with ThreadPoolExecutor(4) as callers:
    right += list(callers.map(call, programs * 2))
print(threads, all(right))
"""
    assert in_process(script) == "[2, 2] True\n"


def in_process(script: str) -> str:
    """Returns what a script prints in a process of its own."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_calls_share_memory_one_after_another_and_not_at_the_same_time(network: QGraph) -> None:
    program = native(network)
    images = [torch.randn(1 + n % 4, 3, 17, 15) for n in range(4)]
    calls = [program.prepare({"s0": len(image)}) for image in images]
    expected = [network.run(image) for image in images]
    for call, image in zip(calls, images, strict=True):
        call([image], 2)
    assert len(program.frames) == 1
    with ThreadPoolExecutor(8) as pool:
        work = [(n % 4, 1 + n % 3) for n in range(64)]
        found = list(pool.map(lambda job: calls[job[0]]([images[job[0]]], job[1]), work))
    assert all(same(expected[n], results) for (n, _), results in zip(work, found, strict=True))
    assert 1 <= len(program.frames) <= 8


def native(graph: QGraph) -> NativeProgram:
    """Builds a graph for the fastest level."""
    return compile_graph(graph, LEVELS[-1:])[LEVELS[-1].name]


def test_contiguous_floats_are_read_in_place_and_all_else_is_copied(
    network: QGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = native(network).prepare({"s0": 2})
    copied: list[torch.Tensor] = []
    convert = runtime._stored_input

    def note_and_convert(x: torch.Tensor) -> torch.Tensor:
        copied.append(x)
        return convert(x)

    monkeypatch.setattr(runtime, "_stored_input", note_and_convert)
    image = torch.randn(2, 3, 17, 15)
    expected = network.run(image)
    assert same(expected, call([image], 1))
    assert same(expected, call([image.clone().requires_grad_()], 1))
    assert copied == []
    for view in (
        image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        torch.complex(image, -image).conj().imag,
        torch._neg_view(-image),
    ):
        copied.clear()
        assert same(expected, call([view], 1))
        assert len(copied) == 1


def test_integer_inputs_and_results_are_converted() -> None:
    x = torch.randint(-128, 128, (3, 5, 4, 2), dtype=torch.int8)
    graph, inputs = graph_of([case("clamp", x, -90, 80)])
    assert same(graph.run(*inputs), native(graph).run(inputs, 2))


def test_more_threads_than_the_pool_holds_are_not_an_error(network: QGraph) -> None:
    image = torch.randn(3, 3, 17, 15)
    assert same(network.run(image), native(network).run([image], 10**6))


def test_what_is_prepared_for_sizes_serves_every_call_of_them(program: CpuExecutable) -> None:
    run: Run = program.prepare({"s0": 3})
    for seed in range(3):
        image = torch.randn(3, 3, 17, 15, generator=torch.Generator().manual_seed(seed))
        assert same(program.run([image], 1), run([image], 3))
