"""Pipelines: order, needs, analyses, and merged statistics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from qcompiler import registry
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.numerics.observers import ChannelMeans
from qcompiler.passes import pipelines
from qcompiler.passmgr.analyses import Analysis
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import (
    Verify,
)
from qcompiler.passmgr.pipeline import Pipeline, check_needs
from qcompiler.passmgr.statistics import StatisticRequest
from tests.passmgr.helpers import ANYWHERE, Rename, calibrated


class Counting(list[Tensor]):
    """Batches that count how often they are read."""

    reads = 0

    def __iter__(self) -> Any:
        self.reads += 1
        return super().__iter__()


@pytest.mark.parametrize(
    ("text", "missing", "giver"),
    [
        ("fold-pad", "stage normalized", "normalize-ops"),
        ("normalize-ops,propagate-ranges", "'statistics-collected'", "collect-statistics"),
        ("normalize-ops,share-qparams", "stage calibrated", "propagate-ranges"),
        ("normalize-ops,lower-to-integer", "stage quantized", "quantize-weights"),
        ("normalize-ops,plan-memory", "stage targeted", "legalize-for-target"),
        ("normalize-ops,normalize-ops", "stage traced", "place normalize-ops where"),
    ],
)
def test_missing_needs_are_named_with_the_pass_that_gives_them(
    graph: QGraph, text: str, missing: str, giver: str
) -> None:
    with pytest.raises(QCompilerError) as caught:
        Pipeline.parse(text).run(graph, calibrated(graph), [Verify()])
    assert caught.value.code == "QC0503"
    assert missing in caught.value.problem.replace("the stage", "stage").replace(
        "needs the property", "property"
    )
    assert giver in caught.value.remedy


def test_properties_are_asked_for(graph: QGraph) -> None:
    graph.stage = Stage.CALIBRATED
    (quantize,) = Pipeline.parse("quantize-weights")
    with pytest.raises(QCompilerError, match="'qparams-assigned'") as caught:
        check_needs(quantize, graph)
    assert "share-qparams" in caught.value.remedy


def test_nothing_is_reordered_or_left_out(graph: QGraph, traced: QGraph) -> None:
    text = "normalize-ops,eliminate-dead-nodes,merge-common-nodes,eliminate-dead-nodes"
    records = Pipeline.parse(text).run(graph, PassContext())
    assert ",".join(r.text for r in records) == text
    wrong = Pipeline.parse("eliminate-dead-nodes,fold-pad,normalize-ops")
    with pytest.raises(QCompilerError, match="fold-pad needs the stage normalized"):
        wrong.run(traced.copy(), PassContext())


def test_every_named_pipeline_meets_its_own_needs() -> None:
    for name in registry.names(registry.PIPELINES):
        pipeline = Pipeline.parse(str(registry.load(registry.PIPELINES, name)))
        stage, properties = Stage.TRACED, set[str]()
        for current in pipeline:
            assert current.needs.stage <= stage <= current.needs.last, current
            assert set(current.needs.properties) <= properties, current
            stage = current.gives.stage or stage
            properties |= set(current.gives.properties)
    assert pipelines.DEFAULT.startswith(pipelines.NORMALIZE)


def test_pipelines_are_edited_by_name() -> None:
    pipeline = Pipeline.parse("fold-pad,plan-memory,fold-pad")
    new = Rename()
    assert str(pipeline.insert_after("fold-pad", new)) == "fold-pad,plan-memory,fold-pad,rename"
    assert str(pipeline.insert_before("plan-memory", new)) == "fold-pad,rename,plan-memory,fold-pad"
    assert str(pipeline.replace("fold-pad", new)) == "fold-pad,plan-memory,rename"
    assert str(pipeline.without("fold-pad")) == "plan-memory"
    with pytest.raises(QCompilerError, match="no pass 'fuse'") as caught:
        pipeline.without("fuse")
    assert "fold-pad, plan-memory" in caught.value.remedy


def test_records_say_what_each_pass_did(graph: QGraph) -> None:
    passes = (Rename(), Rename(changes=False), *Pipeline.parse("normalize-ops"))
    records = Pipeline(passes).run(graph, PassContext())
    assert [r.text for r in records] == ["rename", "rename{changes=false}", "normalize-ops"]
    assert [r.changed for r in records] == [True, False, True]
    assert [r.notes for r in records] == [("looked",), ("looked",), ()]
    assert all(r.seconds >= 0 for r in records)
    assert records[-1].nodes == len(graph.nodes)


# -- analyses ------------------------------------------------------------------------------------

COMPUTED: list[int] = []


@dataclass(frozen=True)
class Census(Analysis[int]):
    """Counts nodes."""

    name: ClassVar[str] = "census"

    step: int = 1

    def compute(self, graph: QGraph) -> int:
        COMPUTED.append(self.step)
        return len(graph.nodes)


@dataclass(frozen=True)
class Ask(Pass):
    """Asks for an analysis."""

    name: ClassVar[str] = "ask"
    needs: ClassVar[Needs] = ANYWHERE
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    def run(self, graph: QGraph, context: PassContext) -> bool:
        assert context.analysis(Census(), graph) == len(graph.nodes)
        context.analysis(Census(2), graph)
        return True


@dataclass(frozen=True)
class Keep(Rename):
    """Changes the graph and keeps one analysis valid."""

    name: ClassVar[str] = "keep"
    gives: ClassVar[Gives] = Gives(preserves=("census",))


@pytest.mark.parametrize(
    ("between", "runs"),
    [((), 1), ((Rename(changes=False),), 1), ((Keep(),), 1), ((Ask(),), 1), ((Rename(),), 2)],
)
def test_analyses_are_computed_once_until_the_graph_changes(
    graph: QGraph, between: tuple[Pass, ...], runs: int
) -> None:
    COMPUTED.clear()
    Pipeline((Ask(), Ask(), *between, Ask())).run(graph, PassContext())
    assert sorted(COMPUTED) == [1] * runs + [2] * runs


def test_analyses_of_another_graph_are_not_taken(graph: QGraph) -> None:
    context, other = PassContext(), graph.copy()
    Pipeline((Ask(),)).run(graph, context)
    other.add_constant(torch.zeros(1), "more", other.output)
    Pipeline((Ask(),)).run(other, context)


# -- statistics ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observe(Pass):
    """Asks for the moments of the input."""

    name: ClassVar[str] = "observe"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED, properties=("statistics-collected",))

    samples: int | None = None

    def statistics(self, graph: QGraph) -> Sequence[StatisticRequest]:
        return [StatisticRequest(graph.inputs[0].name, ChannelMeans(1), self.samples)]

    def run(self, graph: QGraph, context: PassContext) -> bool:
        (request,) = self.statistics(graph)
        context.notes.append(str(context.statistics[request].mean.tolist()))
        return False


def test_one_calibration_run_serves_all_requests(graph: QGraph) -> None:
    torch.manual_seed(1)
    batches = Counting([torch.randn(n, 2, 6, 6) for n in (3, 9, 5)])
    context = calibrated(graph, batches)
    asking = (Observe(), Observe(samples=7), Observe(), Observe(samples=10))
    pipeline = Pipeline((*Pipeline.parse("normalize-ops,collect-statistics{chunk=4}"), *asking))
    read_before = batches.reads
    records = pipeline.run(graph, context)
    assert batches.reads == max(read_before, 1)
    assert len(context.statistics) == 3
    whole = torch.cat(list(batches))
    for record, samples in zip(records[2:], (17, 7, 17, 10), strict=True):
        expected = whole[:samples].double().mean((0, 2, 3))
        found = torch.tensor([float(v) for v in record.notes[0].strip("[]").split(",")])
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_default_pipeline_reads_the_data_once(graph: QGraph) -> None:
    batches = Counting([torch.randn(5, 2, 6, 6)] * 2)
    context = calibrated(graph, batches)
    Pipeline.parse(pipelines.DEFAULT).run(graph, context, [Verify()])
    assert batches.reads == 1


def test_a_pass_that_needs_data_says_so(graph: QGraph) -> None:
    with pytest.raises(QCompilerError, match="needs calibration data") as caught:
        Pipeline.parse("normalize-ops,collect-statistics").run(graph, PassContext())
    assert caught.value.code == "QC0503"
    assert "--data" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "near"), [("fold-padd", "fold-pad"), ("lower-to-intager", "lower-to-integer")]
)
def test_unknown_passes_offer_the_nearest(name: str, near: str) -> None:
    with pytest.raises(QCompilerError, match=re.escape(name)) as caught:
        Pipeline.parse(f"normalize-ops,{name}")
    assert caught.value.code == "QC0501"
    assert near in caught.value.remedy
