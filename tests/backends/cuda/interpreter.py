"""Runs CUDA programs in Triton's interpreter, in a process of its own.

The interpreter is chosen before kernels are imported, by TRITON_INTERPRET=1, and tests that compile
kernels need the other choice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any, ParamSpec, TypeVar

import torch

from qcompiler.backends.cuda.architectures import ARCHITECTURES
from qcompiler.backends.cuda.choices import Tile, tile_key
from qcompiler.backends.cuda.executable import CudaExecutable
from qcompiler.backends.cuda.tuning import product_of
from tests.backends.helpers import Case, build_graph, describe

_P = ParamSpec("_P")
_R = TypeVar("_R")


def check(cases: Sequence[Case], tile: Tile | None = None, arch: str = "sm_80") -> None:
    """Asserts that the kernels give the reference's integers, for all products cut as given."""
    assert interpreted(differences, list(cases), tile, arch) == []


def interpreted(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Returns what a function of a module returns where kernels are interpreted."""
    return _pool().submit(function, *args, **kwargs).result()


@cache
def _pool() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        pool.submit(torch.set_num_threads, 1).result()
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    return pool


def differences(cases: Sequence[Case], tile: Tile | None, arch: str) -> list[str]:
    """Returns the cases that differ from the reference, run together and each one alone."""
    graph, inputs = build_graph(cases)
    expected = graph.run(*inputs)
    plain = CudaExecutable(graph, ARCHITECTURES[arch])
    executable = (
        plain
        if tile is None
        else CudaExecutable(
            graph, ARCHITECTURES[arch], {arch: _everywhere(plain, tile)}, {arch: "test"}
        )
    )
    values = {node.name: x for node, x in zip(graph.inputs, inputs, strict=True)}
    alone = [
        executable.run_op(
            call.name, [values[n.name] for n in call.all_input_nodes if n.name in values], 1
        )
        for call in graph.calls
    ]
    found = []
    for name, results in {"together": executable.run(inputs, 1), "alone": alone}.items():
        for one, want, have in zip(cases, expected, results, strict=True):
            if not torch.equal(want, have):
                found.append(f"{name}: {describe(one, want, have)}")
    return found


def _everywhere(executable: CudaExecutable, tile: Tile) -> Mapping[str, Tile]:
    launches = (x for x in executable.lowered().launches if x.kernel == "conv2d_s8")
    return {tile_key(x.node, product_of(x).rows): tile for x in launches}


def verified(build: Callable[..., Any], *args: Any) -> str:
    """Returns what ``verify`` says of the program that a function of a module makes."""
    return str(build(*args).verify())
