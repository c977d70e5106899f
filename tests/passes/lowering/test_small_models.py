"""Small models of many shapes, compiled: close to float, equal to the reference, integer-only.

Each bundle of models is one program for the cpu target; each model is one for the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

import qcompiler as qc
from tests.passes.lowering.models import BUNDLES, Bundle, Case, decibels, flat

CASES = {case.name: case for cases in BUNDLES.values() for case in cases}
BATCHES = (1, 3, 16)


@cache
def native(bundle: str) -> qc.Program:
    """Returns the program of a bundle for the cpu."""
    cases = BUNDLES[bundle]
    data = [gathered(cases, 8, seed) for seed in range(4)]
    return qc.compile(Bundle(cases).eval(), data, target="cpu")


def gathered(cases: tuple[Case, ...], batch: int, seed: int) -> tuple[Tensor, ...]:
    """Returns the inputs of all models of a bundle."""
    return tuple(x for case in cases for x in case.inputs(batch, seed))


def check_close(case: Case, inputs: tuple[Tensor, ...], actual: object) -> None:
    """Checks shapes and nesting, and that each result is near that of the float model."""
    with torch.no_grad():
        expected = case.make()(*inputs)
    assert type(actual) is type(expected)
    for want, have in zip(flat(expected), flat(actual), strict=True):
        assert (have.shape, have.dtype) == (want.shape, want.dtype)
        assert decibels(want, have) >= case.sqnr


@pytest.mark.parametrize("name", CASES)
def test_reference_program_is_close_to_float(name: str) -> None:
    case = CASES[name]
    data = [case.inputs(8, seed) for seed in range(4)]
    program = qc.compile(case.make(), data, target="reference")
    assert not program.report().islands
    assert all(row.why for row in program.report().rows)
    inputs = case.inputs(5, 99)
    check_close(case, inputs, program(*inputs))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_native_program_is_close_to_float(bundle: str) -> None:
    program, cases = native(bundle), BUNDLES[bundle]
    results: Iterator[object] = iter(program(*gathered(cases, 5, 99)))
    for case in cases:
        check_close(case, case.inputs(5, 99), next(results))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_native_program_equals_the_reference_on_every_operator(bundle: str) -> None:
    result = native(bundle).verify()
    assert result, str(result)
    assert result.checks > 3 * 3 * len(BUNDLES[bundle])


@pytest.mark.parametrize("bundle", BUNDLES)
def test_native_program_runs_every_batch_with_any_threads(bundle: str) -> None:
    program = native(bundle)
    before = program.num_threads
    for batch in BATCHES:
        inputs = gathered(BUNDLES[bundle], batch, batch)
        expected = flat(program.reference(*inputs))
        for threads in (1, 2, 4):
            program.num_threads = threads
            for want, have in zip(expected, flat(program(*inputs)), strict=True):
                assert torch.equal(want, have)
    program.num_threads = before


def test_samples_of_a_batch_do_not_depend_on_each_other() -> None:
    program = native("convolutions")
    whole = gathered(BUNDLES["convolutions"], 3, 5)
    for want, *parts in zip(
        flat(program(*whole)),
        *(flat(program(*(x[i : i + 1] for x in whole))) for i in range(3)),
        strict=True,
    ):
        assert torch.equal(want, torch.cat(parts))


def test_values_that_are_not_finite_saturate_as_the_reference_says() -> None:
    """NaN becomes the zero point, infinities the ends of the range (integer semantics 3)."""
    program, cases = native("elementwise"), BUNDLES["elementwise"]
    inputs = [x.clone() for x in gathered(cases, 2, 7)]
    for x in inputs:
        x.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38])
    expected = flat(program.reference(*inputs))
    for want, have in zip(expected, flat(program(*inputs)), strict=True):
        assert torch.equal(want, have)
        assert bool(have.isfinite().all())


@pytest.mark.parametrize("bundle", BUNDLES)
def test_no_float_operator_runs_inside(bundle: str) -> None:
    for node in native(bundle).graph.calls:
        assert str(node.target).startswith("qcompiler.")
