"""Budgets of compile(): forms, the search for a drop, artifacts, overrides, determinism."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler.budgets import AverageBits, Drop, Fixed, Latency, Size, parse_budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.6MB", Size(2_600_000)),
        ("100KiB", Size(102_400)),
        ("512B", Size(512)),
        ("4.5", AverageBits(4.5)),
        ("3ms", Latency(0.003)),
        ("250us", Latency("0.25ms")),
    ],
)
def test_budgets_are_read_from_text_and_written(text: str, expected: Fixed) -> None:
    assert parse_budget(text) == expected
    assert parse_budget(str(expected)) == expected


def test_texts_keep_all_digits() -> None:
    assert parse_budget(str(Size(123_456_789))) == Size(123_456_789)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Size("2.6"),
        lambda: Size("2.6 parsecs"),
        lambda: Size(0),
        lambda: Size(-1),
        lambda: Size(math.nan),
        lambda: Size(True),
        lambda: AverageBits("four"),  # type: ignore[arg-type]
        lambda: Latency("3MB"),
        lambda: Latency(math.inf),
        lambda: Drop(-1, len),
        lambda: Drop(0.5, "accuracy"),  # type: ignore[arg-type]
        lambda: Drop(0.5, len, evaluations=0),
        lambda: parse_budget("tiny"),
    ],
)
def test_other_budgets_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(qc.QCompilerError) as caught:
        make()
    assert caught.value.code == "QC0323"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path / "cache"))


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)]
    return nn.Sequential(*layers)


def compiled(budget: Any, **options: Any) -> qc.Program:
    return qc.compile(net(), [X], target="reference", budget=budget, **options)


def score(run: Callable[[torch.Tensor], torch.Tensor]) -> float:
    with torch.no_grad():
        return -float((run(X) - net()(X)).square().mean().sqrt()) * 100


def test_something_else_is_no_budget() -> None:
    with pytest.raises(qc.QCompilerError, match="Size"):
        compiled(4.5)


def test_the_allocation_is_kept_in_the_artifact(tmp_path: Path) -> None:
    program = compiled(qc.AverageBits(4))
    found = program.allocation
    assert found is not None
    assert found.average_bits <= 4
    assert "dB" in (found.measured or {})["output SQNR"]
    assert "measured output SQNR" in str(found)
    program.save(tmp_path / "p.qcp")
    assert qc.load(tmp_path / "p.qcp").allocation == found
    assert compiled(None).allocation is None


def test_the_same_model_and_budget_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        compiled(qc.Size(900)).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_overrides_hold_under_a_budget() -> None:
    found = compiled(qc.AverageBits(5), overrides={"4": "w8"}).allocation
    assert found is not None
    assert found.bits["4"] == 8
    with pytest.raises(qc.QCompilerError) as caught:
        compiled(qc.AverageBits(4), overrides={"2": "w8"})
    assert caught.value.code == "QC0322"


def test_the_smallest_program_within_a_drop_is_found() -> None:
    seen: list[float] = []

    def evaluate(run: Any) -> float:
        seen.append(score(run))
        return seen[-1]

    program = compiled(qc.Drop(3.0, evaluate, evaluations=4))
    assert program.allocation is not None
    assert program.allocation.average_bits < 8
    assert score(program) >= -3.0
    assert len(seen) == 5
    assert sum("average bits:" in note for note in program.manifest["notes"]) == 4


@pytest.mark.parametrize("failure", [math.nan, math.inf, "raises", "text"])
def test_a_failing_evaluation_keeps_the_best(failure: Any) -> None:
    calls = 0

    def evaluate(run: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:
            return score(run)
        if failure == "raises":
            raise RuntimeError
        return failure

    program = compiled(qc.Drop(5.0, evaluate, evaluations=3))
    assert calls == 4
    assert program.allocation is not None
    assert program.allocation.average_bits == 8


def test_a_drop_that_nothing_meets_gives_the_best_and_says_so() -> None:
    program = compiled(qc.Drop(0.0, score, evaluations=3))
    assert program.allocation is not None
    assert program.allocation.average_bits == 8
    assert any("no program was good enough" in note for note in program.manifest["notes"])


def test_a_float_model_without_a_score_is_refused() -> None:
    with pytest.raises(qc.QCompilerError) as caught:
        compiled(qc.Drop(1.0, lambda run: math.nan))
    assert caught.value.code == "QC0325"


def test_a_plot_is_drawn_or_what_to_install_is_told(tmp_path: Path) -> None:
    found = compiled(qc.AverageBits(4)).allocation
    assert found is not None
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(qc.QCompilerError) as caught:
            found.plot()
        assert caught.value.code == "QC0802"
    else:
        found.plot(tmp_path / "front.png")
        assert (tmp_path / "front.png").stat().st_size > 1000
