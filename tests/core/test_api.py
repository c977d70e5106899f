"""Program: results, batches, threads, verification, reports, files, determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler as qc
from tests.passes.lowering.models import decibels

ROOT = Path(__file__).parents[2]


class Net(nn.Module):
    """A small residual network with two results in a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Maps [N, 3, H, W] to features and logits."""
        x = F.relu6(self.norm(self.stem(image)))
        x = x + F.hardswish(self.body(x))
        return {"logits": self.head(x.mean((2, 3))), "features": [x, "nothing else", None]}


def images(count: int, seed: int = 0) -> Tensor:
    """Returns random images."""
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def program() -> qc.Program:
    return qc.compile(Net().eval(), [images(8, s) for s in range(4)], target="cpu")


def same(one: Any, other: Any) -> bool:
    """Says whether all tensors of two nested results are equal."""
    return all(torch.equal(a, b) for a, b in zip(flat_of(one), flat_of(other), strict=True))


def flat_of(result: dict[str, Any]) -> list[Tensor]:
    """Returns the tensors of the network's results."""
    return [result["logits"], result["features"][0]]


def test_results_are_nested_as_the_models_are(program: qc.Program) -> None:
    result = program(images(2))
    assert list(result) == ["logits", "features"]
    assert result["features"][1:] == ["nothing else", None]
    with torch.no_grad():
        expected = Net().eval()(images(2))
    for a, b in zip(flat_of(expected), flat_of(result), strict=True):
        assert decibels(a, b) > 30


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_one_compile_runs_every_batch_on_any_threads(program: qc.Program, batch: int) -> None:
    expected = program.reference(images(batch, 9))
    for threads in (1, 2, 4):
        program.num_threads = threads
        assert program.num_threads == threads
        assert same(program(images(batch, 9)), expected)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_are_a_whole_number_above_0(program: qc.Program, threads: Any) -> None:
    with pytest.raises(qc.QCompilerError, match="QC0702: num_threads is"):
        program.set_num_threads(threads)
    with pytest.raises(qc.QCompilerError, match="QC0702"):
        program.num_threads = threads


def test_several_python_threads_call_one_program(program: qc.Program) -> None:
    program.num_threads = 2
    batches = [images(1 + n % 5, n) for n in range(40)]
    expected = [program.reference(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(program, batches))
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


def test_results_are_fresh_tensors_and_inputs_stay(program: qc.Program) -> None:
    x = images(2)
    first = program(x)
    kept = [t.clone() for t in flat_of(first)]
    program(images(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(kept, flat_of(first), strict=True))
    assert torch.equal(x, images(2))
    assert not first["logits"].requires_grad


def test_verify_compares_what_it_is_given(program: qc.Program) -> None:
    result = program.verify()
    assert result
    assert "no difference" in str(result)
    given = program.verify(images(3))
    assert given
    assert given.values > result.values


def test_verify_runs_a_batch_that_threads_do_not_share_evenly(
    program: qc.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = program._executable
    run = executable.run

    def wrong(inputs: Any, threads: int) -> list[Tensor]:
        results = run(inputs, threads)
        if len(inputs[0]) == 5 and threads == 4:
            results[0].view(-1)[3] += 1
        return results

    monkeypatch.setattr(executable, "run", wrong)
    (found,) = program.verify().differences
    assert found.count == 1
    assert found.inputs == "whole program on [[5, 3, 12, 12]], 4 threads"


def test_verify_reports_the_first_difference(
    program: qc.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = program._executable
    run_op, name = executable.run_op, program.graph.calls[1].name

    def wrong(node: str, operands: Any, threads: int) -> Tensor:
        result = run_op(node, operands, threads)
        if node == name and threads == 2:
            result = result.clone()
            result.view(-1)[5] ^= 1
        return result

    monkeypatch.setattr(executable, "run_op", wrong)
    result = program.verify()
    assert not result
    assert {d.node for d in result.differences} == {name}
    assert all("2 threads" in d.inputs and d.count == 1 for d in result.differences)
    assert Path(__file__).name in str(result)


def test_the_report_has_a_row_per_operator(program: qc.Program) -> None:
    report = program.report()
    assert [r.node for r in report.rows] == [n.name for n in program.graph.calls]
    assert all(r.why and r.kernel and r.bits for r in report.rows)
    products = [r for r in report.rows if r.macs]
    assert [r.macs for r in products] == [8 * 27 * 36, 8 * 9 * 36, 80]
    assert all(r.bits.startswith("w8") for r in products)
    assert all(Path(__file__).name in r.source for r in report.rows if r.op != "quantize")
    assert any(r.sqnr is not None and r.sqnr > 25 for r in report.rows)
    text = str(report)
    assert "program for cpu" in text
    assert report.as_json()[0]["node"] == report.rows[0].node


def test_bench_times_both_and_every_operator(program: qc.Program) -> None:
    result = program.bench(images(2), rounds=3)
    assert set(result.timings) == {"fp32", "int8"}
    assert result.speedup is not None
    assert result.batch == (2, 3, 12, 12)
    assert all(r.microseconds is not None and r.microseconds > 0 for r in result.report.rows)
    assert "fp32" in str(result)
    assert program.bench(rounds=1).batch == (1, 3, 12, 12)


def test_saved_and_loaded(program: qc.Program, tmp_path: Path) -> None:
    program.save(tmp_path / "a.qcp")
    loaded = qc.load(str(tmp_path / "a.qcp"))
    for batch in (1, 5):
        assert same(loaded(images(batch)), program(images(batch)))
    assert loaded.verify()
    assert str(loaded.report()) == str(program.report())
    assert loaded.input_types == program.input_types
    assert loaded.bench(rounds=1).speedup is None
    loaded.save(tmp_path / "b.qcp")
    assert (tmp_path / "a.qcp").read_bytes() == (tmp_path / "b.qcp").read_bytes()


COMPILE = """
import sys, torch
import qcompiler as qc
from tests.core.test_api import Net, images
qc.compile(Net().eval(), [images(8, s) for s in range(4)], target="cpu").save("a.qcp")
"""
LOAD = """
import sys, torch
import qcompiler as qc
x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
torch.save(qc.load(sys.argv[1])(x)["logits"], "logits.pt")
assert not [m for m in sys.modules if m.startswith("tests")]
"""


def test_two_processes_write_the_same_bytes_and_read_each_others(
    program: qc.Program, tmp_path: Path
) -> None:
    saved = tmp_path / "a.qcp"
    program.save(saved)
    child = tmp_path / "child"
    child.mkdir()
    changed = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOAD + COMPILE, str(saved)]
    subprocess.run(command, check=True, cwd=child, env={**os.environ, **changed})
    assert torch.equal(torch.load(child / "logits.pt"), program(images(1))["logits"])
    assert (child / "a.qcp").read_bytes() == saved.read_bytes()
