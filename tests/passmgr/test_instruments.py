"""Instruments: what they show of a run, and how a failure is reproduced."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import set_type
from qcompiler.ir.graph import QGraph
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import graph_constants, print_graph
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import TensorType
from qcompiler.passes import pipelines
from qcompiler.passmgr.base import Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import (
    DumpIR,
    Instrument,
    PrintIR,
    Reproducer,
    Skip,
    StopAfter,
    Verify,
)
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.runtime.artifact import load_graph
from tests.passmgr.helpers import ANYWHERE, Rename, Small, calibrated


@dataclass(frozen=True)
class Fail(Pass):
    """Fails."""

    name: ClassVar[str] = "fail"
    needs: ClassVar[Needs] = ANYWHERE

    coded: bool = False
    text: str = ""

    def run(self, graph: QGraph, context: PassContext) -> bool:
        if self.coded:
            raise QCompilerError("QC0203", "no form", node="x", remedy="none")
        message = "boom"
        raise ZeroDivisionError(message)


@dataclass(frozen=True)
class Break(Pass):
    """Leaves a graph that the verifier refuses."""

    name: ClassVar[str] = "break"
    needs: ClassVar[Needs] = ANYWHERE

    def run(self, graph: QGraph, context: PassContext) -> bool:
        graph.results[0].meta.clear()
        return True


class Log(Instrument):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before(self, current: Pass, graph: QGraph) -> None:
        self.calls.append(f"before {current.name}")

    def after(self, current: Pass, graph: QGraph, record: Any) -> None:
        self.calls.append(f"after {current.name}")

    def failed(self, current: Pass, graph: QGraph, error: Exception) -> str | None:
        self.calls.append(f"failed {current.name}")
        return None


def test_printing_before_and_after(graph: QGraph) -> None:
    shown: list[str] = []
    printing = PrintIR(before=("normalize-ops",), after=("*",), write=shown.append)
    before = print_graph(graph)
    Pipeline.parse("eliminate-dead-nodes,normalize-ops,fold-pad").run(
        graph, PassContext(), [printing]
    )
    heads = [text.partition("\n")[0] for text in shown]
    assert heads == [
        "// after eliminate-dead-nodes",
        "// before normalize-ops",
        "// after normalize-ops",
        "// after fold-pad",
    ]
    assert before in shown[1]
    assert "qfloat.conv2d" in shown[2]


def test_dumped_graphs_are_numbered_and_can_be_parsed(graph: QGraph, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dump"
    Pipeline.parse("normalize-ops,fold-pad").run(graph, PassContext(), [DumpIR(folder)])
    assert sorted(p.name for p in folder.iterdir()) == ["00-normalize-ops.qcir", "01-fold-pad.qcir"]
    text = (folder / "01-fold-pad.qcir").read_text()
    assert print_graph(parse_graph(text, graph_constants(graph))) == text


@pytest.mark.parametrize("name", ["normalize-ops", "fold-pad"])
def test_stopping_after_a_pass(graph: QGraph, name: str) -> None:
    pipeline = Pipeline.parse("normalize-ops,fold-pad,fold-pad,fold-batch-norm")
    records = pipeline.run(graph, PassContext(), [StopAfter(name)])
    assert records[-1].text == name
    assert len(records) == 1 + (name == "fold-pad")


def test_skipping_passes(graph: QGraph) -> None:
    log = Log()
    pipeline = Pipeline.parse("normalize-ops,fold-pad,fold-batch-norm,fold-pad")
    records = pipeline.run(graph, PassContext(), [Skip("fold-pad"), log])
    assert [r.text for r in records] == ["normalize-ops", "fold-batch-norm"]
    assert log.calls[-2:] == ["before fold-batch-norm", "after fold-batch-norm"]


def test_the_verifier_names_the_pass_that_broke_the_graph(graph: QGraph) -> None:
    log = Log()
    with pytest.raises(QCompilerError) as caught:
        Pipeline((Rename(), Break(), Rename())).run(graph, PassContext(), [Verify(), log])
    assert caught.value.code == "QC0504"
    assert any("pass break; passes already run: rename" in n for n in caught.value.__notes__)
    assert log.calls[-1] == "failed break"


def test_a_wrong_type_is_found(graph: QGraph) -> None:
    @dataclass(frozen=True)
    class Mistype(Rename):
        name: ClassVar[str] = "mistype"

        def run(self, graph: QGraph, context: PassContext) -> bool:
            set_type(graph.results[0], TensorType(torch.float32, (-3,)))
            return True

    with pytest.raises(QCompilerError, match="QC0504"):
        Pipeline((Mistype(),)).run(graph, PassContext(), [Verify()])


def test_an_exception_becomes_a_coded_error(graph: QGraph, tmp_path: Path) -> None:
    pipeline = Pipeline((Rename(), Fail(text="it's")))
    with pytest.raises(QCompilerError, match="ZeroDivisionError: boom") as caught:
        pipeline.run(graph, PassContext(), [Reproducer(tmp_path / "a b")])
    assert caught.value.code == "QC0507"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "passes already run: rename" in caught.value.__notes__[0]
    command = shlex.split(caught.value.remedy.removeprefix("reproduce with: "))
    assert command[-1] == 'fail{text="it\'s"}'
    assert print_graph(load_graph(command[2])) == print_graph(graph)


def reproduced(error: QCompilerError) -> list[str]:
    """Returns the words of the command that an error's note gives."""
    (line,) = [n for n in error.__notes__ if n.startswith("reproduce with: ")]
    return shlex.split(line.removeprefix("reproduce with: "))


def test_the_reproducer_runs_the_failing_pass_again(graph: QGraph, tmp_path: Path) -> None:
    for node in graph.nodes:
        if node.op == "get_attr" and graph.constant(node).shape == (3,):
            graph.set_constant(node, torch.tensor([1e9, 1.0, 1.0]))
    text = f"{pipelines.NORMALIZE},{pipelines.CALIBRATE},quantize-weights,lower-to-integer"
    instruments = [Verify(), Reproducer(tmp_path, ["--target", "reference"])]
    context = calibrated(graph)
    with pytest.raises(QCompilerError, match="QC0403") as caught:
        Pipeline.parse(text).run(graph, context, instruments)
    *head, path, flag, pipeline, _, data, _, target = reproduced(caught.value)
    assert head == ["qcompiler", "opt"]
    assert (flag, data, target) == ("--pipeline", "PACKAGE.MODULE:DATA", "reference")
    assert pipeline == f"{pipelines.CALIBRATE},quantize-weights"
    again = load_graph(path)
    with pytest.raises(QCompilerError, match="QC0403") as second:
        Pipeline.parse(pipeline).run(again, calibrated(again), [Verify()])
    assert second.value.problem == caught.value.problem


def test_a_pass_without_statistics_is_reproduced_alone(graph: QGraph, tmp_path: Path) -> None:
    passes = (*Pipeline.parse(pipelines.DEFAULT).without("plan-memory"), Fail(coded=True))
    with pytest.raises(QCompilerError, match="QC0203") as caught:
        Pipeline(passes).run(graph, calibrated(graph), [Verify(), Reproducer(tmp_path)])
    command = reproduced(caught.value)
    assert command[3:] == ["--pipeline", "fail{coded=true}"]
    again = load_graph(command[2])
    assert again.stage == Stage.TARGETED
    with pytest.raises(QCompilerError, match="QC0203"):
        Pipeline((Fail(coded=True),)).run(again, PassContext(), [Verify()])


def test_compile_names_the_target_in_the_command() -> None:
    import qcompiler as qc

    passes = (*Pipeline.parse("normalize-ops"), Fail(coded=True))
    with pytest.raises(QCompilerError) as caught:
        qc.compile(
            Small().eval(),
            [torch.randn(2, 2, 6, 6)],
            target="reference",
            strict=False,
            pipeline=Pipeline(passes),
        )
    assert reproduced(caught.value)[-3:] == ["--target", "reference", "--no-strict"]
