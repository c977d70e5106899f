"""Schemes at the door: refused before any work, by compile() and by the command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

import qcompiler
from qcompiler.cli_inputs import read_overrides
from qcompiler.errors import QCompilerError


class Unread:
    """Calibration data that nothing may ask for."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"scheme": "w4a16"}, "QC0305"),
        ({"scheme": "w4"}, "QC0304"),
        ({"overrides": {"head": "w99"}}, "QC0304"),
        ({"overrides": {"head": "a16"}}, "QC0305"),
        ({"pipeline": "assign-scheme{scheme=w4a16},collect-statistics"}, "QC0305"),
        ({"scheme": "w4a8", "pipeline": "assign-scheme,collect-statistics"}, "QC0501"),
        ({"scheme": "w4a8", "pipeline": "normalize-ops"}, "QC0501"),
    ],
)
def test_what_cannot_run_is_told_before_the_work(options: dict[str, object], code: str) -> None:
    with pytest.raises(QCompilerError, match=code):
        qcompiler.compile(nn.Linear(2, 2), Unread(), **options)  # type: ignore[arg-type]  # options


def test_rules_of_the_command() -> None:
    assert read_overrides(["a.*=w4", "op:linear=float", "a.*=w4"]) == {
        "a.*": "w4",
        "op:linear": "float",
    }
    with pytest.raises(QCompilerError, match="QC0307"):
        read_overrides(["a=w4", "a=w8"])
    with pytest.raises(QCompilerError, match="QC0304"):
        read_overrides(["w4"])
