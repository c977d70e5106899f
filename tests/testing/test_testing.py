"""The help for pass authors: graphs and pass runs in one line, and a small FileCheck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import set_type, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import TensorType
from qcompiler.passmgr.base import Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.testing import check_ir, run_pass, trace

TEXT = """
%x : f32[2] = input
%w : f32[2] = constant @w
%w_1 : f32[2] = constant @w_1
%y : f32[2] = qfloat.mul(%x, %w)
%z : f32[2] = qfloat.add(%y, %y)
return (%z)
"""


@pytest.mark.parametrize(
    "expected",
    [
        "CHECK: qfloat.mul(%x, %w)",
        "CHECK: %[[W:.*]] : f32[2] = constant\nCHECK: qfloat.mul(%x, %[[W]])",
        "CHECK: %[[Y:.*]] : f32{{.*}} = qfloat.mul\nCHECK-NEXT: qfloat.add(%[[Y]], %[[Y]])",
        "CHECK: qfloat.add(%[[A:[a-z]+]], %[[A]])",
        "CHECK: qfloat.mul\nCHECK-NOT: constant\nCHECK: return",
        "CHECK-NOT: qfloat.sub",
        "CHECK:   %x   :   f32[2]",
        "\n  CHECK: input\n\n",
    ],
)
def test_accepts(expected: str) -> None:
    check_ir(TEXT, expected)


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ("CHECK: qfloat.sub", ">> %x"),
        ("CHECK: qfloat.add\nCHECK: qfloat.mul", ">> return"),
        ("CHECK: return\nCHECK: more", r">> \(end\)"),
        ("CHECK: input\nCHECK-NEXT: qfloat.mul", ">> %w : f32"),
        ("CHECK: %[[W:.*]] : f32[2] = input\nCHECK: mul(%[[W]], %[[W]])", "with W = x"),
        ("CHECK: %[[W:w_1]] :\nCHECK: mul(%x, %[[W]])", "nothing matches"),
        ("CHECK: %[[W:w]] :\nCHECK: %[[W]] :", "nothing matches"),
        ("CHECK: input\nCHECK-NOT: qfloat.mul\nCHECK: return", "matches CHECK-NOT: qfloat.mul"),
        ("CHECK-NOT: return", ">> return"),
    ],
)
def test_refuses(expected: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_ir(TEXT, expected)


@pytest.mark.parametrize("expected", ["CHEK: x", "CHECK x", "CHECK:", "CHECK: [[A]]"])
def test_wrong_directives_are_an_error(expected: str) -> None:
    with pytest.raises(ValueError, match=r"is no CHECK|nothing captures"):
        check_ir(TEXT, expected)


class _Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2.0


@dataclass(frozen=True)
class _Mistype(Pass):
    """Leaves a type that is not that of the call."""

    name: ClassVar[str] = "mistype"
    needs: ClassVar[Needs] = Needs(Stage.TRACED, until=Stage.NORMALIZED)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        node = graph.results[0]
        set_type(node, TensorType(torch.float32, type_of(node).shape[1:]))
        return True


def test_runs_a_pipeline_on_a_copy() -> None:
    before = trace(_Twice(), torch.randn(3, 4))
    after = run_pass("normalize-ops", before)
    assert (before.stage, after.stage) == (Stage.TRACED, Stage.NORMALIZED)
    check_ir(before, "CHECK: aten.relu.default(%x)\nCHECK-NOT: qfloat")
    check_ir(
        after,
        """
        CHECK:     %[[Y:.*]] : f32[batch,4] = qfloat.clamp(%x, 0.0, none)
        CHECK-NEXT: qfloat.unary(%[[Y]], "affine", [2.0, 0.0])
        CHECK-NOT: aten
        """,
    )
    x = torch.randn(5, 4)
    assert torch.equal(after.run(x)[0], _Twice()(x))
    assert trace(_Twice(), x, pipeline="normalize-ops").stage == Stage.NORMALIZED


def test_finds_stale_types() -> None:
    with pytest.raises(QCompilerError, match="types-as-inferred"):
        run_pass(_Mistype(), trace(_Twice(), torch.randn(3, 4)))
