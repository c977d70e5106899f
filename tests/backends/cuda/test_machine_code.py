"""Kernels compiled ahead of time: matrix instructions, registers, spills, for each architecture.

``python -m benchmarks.cuda_kernels`` does the same for every kernel of whole networks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qcompiler.backends.cuda.aot import Compiled, compile_all, compile_launch, distinct
from qcompiler.backends.cuda.architectures import ARCHITECTURES
from qcompiler.backends.cuda.choices import Tile, tile_key
from qcompiler.backends.cuda.launch import Launch, Value
from qcompiler.backends.cuda.lowering import MOST_DEPTH, lower, why_not
from qcompiler.backends.native.packing import Blob
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from tests.backends.cuda import networks
from tests.backends.helpers import Case, Const, build_graph, case

PRODUCTS = ("conv2d_s8", "matmul_s8")


def check(kernel: Compiled, instruction: str | None = None) -> None:
    """Asserts that a kernel keeps its values in registers and products use the matrix units."""
    code = kernel.machine_code()
    assert "STL" not in code, f"{kernel.launch.label()} spills"
    assert 0 < kernel.registers <= 255
    if kernel.launch.kernel in PRODUCTS:
        assert "IMMA." in code or "IGMMA." in code, kernel.launch.label()
    if instruction is not None:
        assert f" {instruction}." in code, kernel.launch.label()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_kernel_of_a_network(name: str) -> None:
    graph = networks.inverted(f"cuda-{name.replace('_', '')}").graph
    arch = ARCHITECTURES[name]
    launches = lower(graph, dict.fromkeys(graph.symbols, 32), Blob(), arch).launches
    made = [compile_launch(launch, arch) for launch in distinct(launches)]
    assert {"conv2d_s8", "depthwise_s8", "mean_s8"} <= {k.launch.kernel for k in made}
    for kernel in made:
        check(kernel)


def test_kernels_are_compiled_in_processes() -> None:
    (launch,) = lower(gemm(1), {}, Blob(), ARCHITECTURES["sm_80"]).launches
    (made,) = compile_all([launch, launch], ARCHITECTURES["sm_80"], jobs=1)
    check(made)


def gemm(rows: int) -> QGraph:
    """Returns a product of 4096 x 4096 weights with requantization."""
    ones = [torch.full((4096,), v, dtype=torch.int32) for v in (0, 2**30, 40)]
    weight = torch.ones(4096, 4096, dtype=torch.int8)
    x = torch.ones(rows, 4096, dtype=torch.int8)
    parameters = [Const(c) for c in (weight, *ones)]
    return build_graph([case("linear_requant", x, *parameters, 0, 0, -128, 127)])[0]


@pytest.mark.parametrize(("name", "instruction"), [("sm_80", "IMMA"), ("sm_90", "IGMMA")])
def test_large_products_use_the_widest_instructions(name: str, instruction: str) -> None:
    arch = ARCHITECTURES[name]
    (launch,) = lower(gemm(8192), {}, Blob(), arch).launches
    assert launch.constants["BLOCK_M"] >= 64  # type: ignore[operator]  # an int
    kernel = compile_launch(launch, arch)
    check(kernel, instruction)
    code = kernel.machine_code()
    assert "LDGSTS.E.BYPASS" in code  # 16 bytes at a time, past the registers
    assert "STG.E.128" in code
    assert kernel.shared <= arch.shared_bytes


def codes(*shape: int) -> torch.Tensor:
    """Returns codes of a shape."""
    return torch.ones(shape, dtype=torch.int8)


def conv(x: torch.Tensor, channels: int, kernel: int, stride: int, groups: int) -> Case:
    """Returns a convolution padded at the zero point."""
    ones = [Const(torch.full((channels,), v, dtype=torch.int32)) for v in (0, 2**30, 40)]
    weight = Const(codes(channels, x.shape[1] // groups, kernel, kernel))
    padding = [kernel // 2] * 4
    geometry = [3, [stride] * 2, padding, [1, 1], groups, -5, -128, 127]
    return case("conv2d_requant", x, weight, *ones, *geometry)


# What loads its codes, of several kernels: as many at a time as there are neighbours.
LOADS = {
    "padded": (conv(codes(32, 64, 28, 28), 64, 3, 1, 1), "conv2d_s8", "LDGSTS.E.BYPASS"),
    "first": (conv(codes(8, 3, 64, 64), 32, 3, 2, 1), "conv2d_s8", "LDGSTS.E"),
    "depthwise": (conv(codes(8, 96, 28, 28), 96, 5, 1, 96), "depthwise_s8", "LDG.E.128"),
}


@pytest.mark.parametrize("name", ["sm_80", "sm_90"])
@pytest.mark.parametrize("what", LOADS)
def test_windows_are_loaded_in_words(what: str, name: str) -> None:
    """A mask with a value other than zero would send every code through a register."""
    one, kernel, load = LOADS[what]
    launches = lower(build_graph([one])[0], {}, Blob(), ARCHITECTURES[name]).launches
    (launch,) = (x for x in launches if x.kernel == kernel)
    made = compile_launch(launch, ARCHITECTURES[name])
    check(made)
    code = made.machine_code()
    assert load in code
    assert "LDG.E.U8" not in code
    assert "LDG.E.S8" not in code


@pytest.mark.parametrize("name", ["sm_80", "sm_90"])
def test_matrices_of_heads_stay_in_registers(name: str) -> None:
    """Between heads each code has a place of its own: that is where registers are short."""
    one = [Const(torch.tensor([v], dtype=torch.int32)) for v in (2**30, 38)]
    operands = codes(2, 12, 197, 64), codes(2, 12, 64, 197)
    graph, _ = build_graph([case("matmul_requant", *operands, *one, 2, -3, 1, -128, 127)])
    (launch,) = lower(graph, {}, Blob(), ARCHITECTURES[name]).launches
    check(compile_launch(launch, ARCHITECTURES[name]))


def test_split_products_use_atomics() -> None:
    arch, graph = ARCHITECTURES["sm_80"], gemm(16)
    tiles = {tile_key(graph.calls[0].name, 16): Tile(16, 64, 128, split_k=4)}
    (launch,) = lower(graph, {}, Blob(), arch, tiles).launches
    kernel = compile_launch(launch, arch)
    check(kernel, "IMMA")
    assert "RED" in kernel.machine_code() or "ATOM" in kernel.machine_code()


def test_a_kernel_that_does_not_compile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    out = Value("y", torch.int8)
    broken = Launch("y", "fill", (1, 1, 1), {"out": out, "count": 24}, {
        "VALUE": 1, "WIDE": False, "BLOCK": 24,
    })  # fmt: skip
    with pytest.raises(QCompilerError) as caught:
        compile_launch(broken, ARCHITECTURES["sm_80"])
    assert caught.value.code == "QC0843"
    assert caught.value.node == "y"
    assert "fill with count 24" in caught.value.problem
    (kept,) = tmp_path.glob("qcompiler-fill-*.py")
    assert str(kept) in caught.value.remedy
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(kept), "sm_80"], env=path, capture_output=True, text=True
    )
    assert "QC0843" in done.stderr


def test_products_whose_parts_could_saturate_are_refused() -> None:
    parameters = [Const(torch.zeros(2, MOST_DEPTH + 1, dtype=torch.int8))]
    parameters.append(Const(torch.zeros(2, dtype=torch.int32)))
    x = torch.zeros(1, MOST_DEPTH + 1, dtype=torch.int8)
    graph, _ = build_graph([case("linear", x, *parameters, -128)])
    assert "could saturate" in str(why_not(graph.calls[0]))
