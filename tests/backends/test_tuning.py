"""Tuning: what is chosen from given times, budgets, and what an artifact keeps."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler import QCompilerError
from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.cpu.isa import VARIABLE
from qcompiler.backends.native import tuning
from qcompiler.backends.native.choices import Setting, default_setting, settings_of
from qcompiler.backends.native.emitter import NativeSources, emit, plan_sequentially
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.tuning import LEAST_TIMES, Tuning, tune
from qcompiler.ir.graph import QGraph
from qcompiler.target.tuning import SECONDS, TuningBudget, tuning_budget
from tests.backends.helpers import build_graph
from tests.backends.test_choices import layer

Costs = Callable[[str, Setting], float]


class Machine:
    """Stands for a built program whose operators take given nanoseconds."""

    def __init__(
        self,
        graph: QGraph,
        sources: NativeSources,
        costs: Costs,
        slices: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        self.graph = graph
        self.ops = sources.ops
        self._costs = costs
        self._chosen = [0] * len(self.ops)
        self._settings = {n.name: settings_of(graph, n) for n in graph.calls}
        self._slice = 0
        self._slices = slices
        self.runs = 0
        self.library = SimpleNamespace(qc_choose=self._choose, qc_choose_slice=self._choose_slice)

    def _choose(self, index: int, chosen: int) -> None:
        self._chosen[index] = chosen

    def _choose_slice(self, samples: int) -> None:
        self._slice = samples

    def prepare(self, sizes: dict[str, int]) -> Callable[..., None]:
        """Returns a call that tells the times, and takes as long itself."""

        def call(inputs: Sequence[torch.Tensor], threads: int, times_at: int | None) -> None:
            self.runs += 1
            spent = [
                self._costs(op.node, self._settings[op.node][chosen]) / threads
                for op, chosen in zip(self.ops, self._chosen, strict=True)
            ]
            time.sleep(sum(spent) / 1e9 + self._slices.get(self._slice, 0.0))
            if times_at is not None:
                held = (ctypes.c_int64 * len(spent)).from_address(times_at)
                held[:] = [int(t) for t in spent]

        return call


def tuned(
    graph: QGraph,
    costs: Costs,
    seconds: float,
    most_settings: int | None = None,
    slices: Mapping[int, float] = MappingProxyType({}),
) -> tuple[Tuning, Machine]:
    """Tunes a graph on a machine with given costs; slices add seconds to a run."""
    made: list[Any] = []

    def build(sources: NativeSources) -> NativeProgram:
        made.append(Machine(graph, sources, costs, slices))
        program: NativeProgram = made[0]  # has all that tuning uses
        return program

    result = tune(
        graph,
        graph.memory_plan or plan_sequentially(graph),
        build,
        seconds=seconds,
        threads=(1, 2),
        most_settings=most_settings,
    )
    return result, made[0]


@pytest.fixture(scope="module")
def graph() -> QGraph:
    """Returns two layers with choices of tiles and blocks."""
    return build_graph([layer((1, 64, 28, 28), 256, 1), layer((1, 32, 28, 28), 128, 1)])[0]


def test_the_fastest_setting_of_each_operator_is_taken(graph: QGraph) -> None:
    first, second = (node.name for node in graph.calls)
    wanted = {first: settings_of(graph, graph.calls[0])[-1]}
    wanted[second] = settings_of(graph, graph.calls[1])[3]

    def costs(node: str, setting: Setting) -> float:
        return 5e4 if setting == wanted[node] else 1e5

    result, machine = tuned(graph, costs, 1.5)
    assert result.settings == wanted
    assert result.changed == 2
    assert result.gain > 1.2
    assert machine.runs > 2 * LEAST_TIMES * len(settings_of(graph, graph.calls[0]))


def test_a_gain_within_the_margin_changes_nothing(graph: QGraph) -> None:
    defaults = {node.name: default_setting(graph, node) for node in graph.calls}

    def costs(node: str, setting: Setting) -> float:
        return 1e5 if setting == defaults[node] else 0.985e5

    result, _ = tuned(graph, costs, 1.0)
    assert result.settings == defaults
    assert (result.changed, result.gain) == (0, 1.0)


def test_winners_that_slow_the_whole_program_down_are_dropped(graph: QGraph) -> None:
    """Times of operators say one thing, whole runs another one."""
    defaults = {node.name: default_setting(graph, node) for node in graph.calls}

    class Liar(Machine):
        def prepare(self, sizes: dict[str, int]) -> Callable[..., None]:
            honest = super().prepare(sizes)

            def call(inputs: Sequence[torch.Tensor], threads: int, times_at: int | None) -> None:
                honest(inputs, threads, times_at)
                if times_at is None and any(self._chosen):
                    time.sleep(0.002)

            return call

    def build(sources: NativeSources) -> NativeProgram:
        made: Any = Liar(graph, sources, lambda n, s: 1e5 if s == defaults[n] else 5e4)
        program: NativeProgram = made
        return program

    result = tune(graph, plan_sequentially(graph), build, seconds=1.0, threads=(1,))
    assert result.settings == defaults
    assert result.changed == 0


def test_without_time_the_cost_model_stays(graph: QGraph) -> None:
    defaults = {node.name: default_setting(graph, node) for node in graph.calls}

    def costs(node: str, setting: Setting) -> float:
        return 1e5 if setting == defaults[node] else 1e3

    result, machine = tuned(graph, costs, 1e-6)
    assert result.settings == defaults
    assert machine.runs == 0


def test_the_time_is_kept(graph: QGraph) -> None:
    start = time.monotonic()
    tuned(graph, lambda node, setting: 1e5, 0.6)
    assert 0.3 < time.monotonic() - start < 1.2


def test_fast_tuning_measures_the_cheapest_settings_alone(graph: QGraph) -> None:
    last = {node.name: settings_of(graph, node)[-1] for node in graph.calls}

    def costs(node: str, setting: Setting) -> float:
        return 1e4 if setting == last[node] else 1e5

    result, _ = tuned(graph, costs, 0.5, most_settings=2)
    assert result.changed == 0


class Net(nn.Module):
    """A network with an inverted bottleneck, whose batch is dynamic."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU6(),
            nn.Conv2d(16, 96, 1),
            nn.ReLU6(),
            nn.Conv2d(96, 96, 3, 1, 1, groups=96),
            nn.ReLU6(),
            nn.Conv2d(96, 24, 1),
        )
        self.head = nn.Linear(24, 70)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, 3, H, W] to [N, 70]."""
        result: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return result


def compile_net(**options: Any) -> qc.Program:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return qc.compile(Net().eval(), [images], **{"target": "cpu", **options})


@pytest.fixture(scope="module")
def plain() -> qc.Program:
    return compile_net()


@pytest.fixture(scope="module")
def program() -> qc.Program:
    """Returns a program that took dear settings, as if they were the fastest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning._Op, "winner", _last)
        patch.setattr(tuning._Bench, "take_winners", _take_all)
        return compile_net(tune="full", tune_seconds=1.0)


def _last(op: tuning._Op) -> int:
    """Returns the dearest setting, of those that do not fuse where there is one."""
    return max(range(len(op.settings)), key=lambda i: (op.settings[i].get("fused") == 0, i))


def _take_all(bench: tuning._Bench, seconds: float) -> float:
    bench._choose([op.winner() for op in bench.ops])
    return 1.5


def test_slices_are_chosen_by_the_time_of_a_batch(plain: qc.Program) -> None:
    slow = {samples: 0.004 for samples in (1, 2, 8)}
    result, _ = tuned(plain.graph, lambda node, setting: 1e3, 2.0, slices={**slow, 4: 0.001})
    assert result.batching is not None
    assert result.batching.slice == 4
    text = emit(plain.graph, plan_sequentially(plain.graph), result.batching).files["program.c"]
    assert b"slice_samples = 4" in text


def test_measuring_on_this_machine_keeps_the_results(plain: qc.Program) -> None:
    image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    fast = compile_net(tune="fast", tune_seconds=0.5)
    assert torch.equal(fast(image), plain.reference(image))
    (note,) = [line for line in fast.report().notes if "tuned" in line]
    assert note.startswith("cpu: tuned (fast) at the level ")
    assert note.endswith("operators with choices depart from the cost model")


def test_an_artifact_keeps_what_was_chosen(
    plain: qc.Program, program: qc.Program, tmp_path: Path
) -> None:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    assert torch.equal(program(image), plain(image))
    program.save(tmp_path / "tuned.qcp")
    loaded = qc.load(tmp_path / "tuned.qcp")
    kernels = [row.kernel for row in loaded.report().rows]
    assert kernels == [row.kernel for row in program.report().rows]
    assert kernels != [row.kernel for row in plain.report().rows]
    assert any("fused=0" in kernel for kernel in kernels)
    assert loaded.report().notes == program.report().notes
    assert torch.equal(loaded(image), plain(image))
    loaded.save(tmp_path / "again.qcp")
    assert (tmp_path / "again.qcp").read_bytes() == (tmp_path / "tuned.qcp").read_bytes()


def test_a_library_that_is_built_again_has_the_same_choices(
    plain: qc.Program, program: qc.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = program._executable.files()
    monkeypatch.setenv(VARIABLE, "portable")
    again = CpuTarget().restore(program.graph, files)
    assert again.isa.name == "portable"
    chosen = [op["choices"] for op in json.loads(files["native.json"])["ops"]]
    assert [op["choices"] for op in json.loads(again.files()["native.json"])["ops"]] == chosen
    assert any(note.startswith("cpu: tuned (full)") for note in again.notes())
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    assert torch.equal(again.run([image], 1)[0], plain(image))


def test_a_program_says_what_the_cost_model_chose(plain: qc.Program) -> None:
    kernels = {row.op: row.kernel for row in plain.report().rows}
    node = next(n for n in plain.graph.calls if "pointwise_depthwise" in str(n.target))
    chosen = " ".join(f"{k}={v}" for k, v in sorted(default_setting(plain.graph, node).items()))
    assert kernels["pointwise_depthwise_requant"].endswith(f"{{{chosen}}}")
    assert not any("tuned" in note for note in plain.report().notes)


@pytest.mark.parametrize("effort", SECONDS)
def test_a_budget_has_seconds_of_its_own(effort: str) -> None:
    assert tuning_budget(effort, None) == TuningBudget(effort, SECONDS[effort])
    assert tuning_budget(effort, 3) == TuningBudget(effort, 3.0)


def test_no_tuning_needs_no_budget() -> None:
    assert tuning_budget(None, None) is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tune": "slow"}, "tune is 'slow'"),
        ({"tune": True}, "tune is True"),
        ({"tune_seconds": 3.0}, "tune_seconds is given without tune"),
        ({"tune": "fast", "tune_seconds": 0}, "tune_seconds is 0"),
        ({"tune": "fast", "tune_seconds": -1.0}, "tune_seconds is -1.0"),
        ({"tune": "full", "tune_seconds": float("inf")}, "tune_seconds is inf"),
        ({"tune": "full", "tune_seconds": float("nan")}, "tune_seconds is nan"),
        ({"tune": "full", "tune_seconds": "5"}, "tune_seconds is '5'"),
        ({"tune": "fast", "target": "reference"}, "the target reference leaves nothing open"),
    ],
)
def test_wrong_options_are_refused_before_the_work(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(QCompilerError, match="QC0805") as info:
        qc.compile(Net(), iter(()), **{"target": "cpu", **options})
    assert info.value.problem.startswith(problem)
