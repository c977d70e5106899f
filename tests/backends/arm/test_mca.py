"""Predicted cycles: blocks of code through llvm-mca, and what bench says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import qcompiler
from qcompiler.backends.arm.mca import find_analyzer, predict
from qcompiler.errors import QCompilerError
from tests.assets import digits, load_mnist_net
from tests.backends.arm.test_arm_program import CORES, build, image
from tests.backends.test_native_program import small_network

# sdot v0.4s, v16.16b, v24.4b[0] and those of the sums in v1 to v7; then b.ne to the first.
_DOTS = b"".join((0x4F98E200 | register).to_bytes(4, "little") for register in range(8))
_LOOP = _DOTS + (0x54000001 | (-8 & 0x7FFFF) << 5).to_bytes(4, "little")


@pytest.mark.parametrize(("core", "rate"), [("neoverse-n1", 2), ("neoverse-v1", 4)])
def test_a_loop_of_dot_products_runs_at_the_rate_of_the_core(core: str, rate: int) -> None:
    found = predict({"dots": {_LOOP: 1000}}, core)
    assert found.cycles["dots"] == pytest.approx(1000 * 8 / rate, rel=0.1)
    assert f"-mcpu={core}" in found.note
    assert "100.00%" in found.note


def test_blocks_that_cannot_be_read_cost_as_much_as_the_others() -> None:
    alone = predict({"dots": {_LOOP: 900}}, "neoverse-n1").cycles["dots"]
    strange = bytes.fromhex("ffffffff") * 9
    found = predict({"dots": {_LOOP: 900, strange: 900}}, "neoverse-n1")
    assert found.cycles["dots"] == pytest.approx(2 * alone)
    assert "50.00%" in found.note
    unknown = predict({"strange": {strange: 1}}, "neoverse-n1").cycles["strange"]
    assert unknown != unknown


def test_every_operator_of_a_program_has_cycles_that_repeat() -> None:
    network = small_network()
    for core in CORES:
        first = build(core, network).profile([image(1)])
        assert first == build(core, network).profile([image(1)])
        assert first.cycles.keys() == first.instructions.keys()
        for node, cycles in first.cycles.items():
            # these cores begin at most eight instructions in a cycle; few wait for long
            assert first.instructions[node] / 8 < cycles < 8 * first.instructions[node], node


def test_a_core_in_order_needs_more_cycles_for_the_same_kernels() -> None:
    network = small_network()
    little, big = (
        build(core, network).profile([image(1)]) for core in ("cortex-a55", "cortex-a76")
    )
    assert sum(little.cycles.values()) > 1.5 * sum(big.cycles.values())


def test_an_analyzer_that_is_missing_or_old_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QCOMPILER_LLVM_MCA", str(tmp_path / "llvm-mca"))
    with pytest.raises(QCompilerError, match="none is there") as caught:
        find_analyzer()
    assert caught.value.code == "QC0828"
    old = tmp_path / "llvm-mca-14"
    old.write_text("#!/bin/sh\necho 'LLVM version 14.0.6'\n")
    old.chmod(0o755)
    monkeypatch.setenv("QCOMPILER_LLVM_MCA", str(old))
    with pytest.raises(QCompilerError, match=r"llvm-mca-14 is of release 14"):
        find_analyzer()


def test_bench_tells_cycles_or_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = qcompiler.compile(load_mnist_net(), [digits().images[:16]], target="cortex-a55")
    one = digits().images[:1]
    told = program.bench(one, rounds=1)
    assert "cycles" in told.text(plain=True)
    assert "-mcpu=cortex-a55" in told.text(plain=True)
    assert sum(told.cycles.values()) > 0
    monkeypatch.setenv("QCOMPILER_LLVM_MCA", str(tmp_path / "none"))
    without = program.bench(one, rounds=1)
    assert without.instructions == told.instructions
    assert not without.cycles
    assert "no predicted cycles" in without.text(plain=True)
    assert "MAC per cycle" not in without.text(plain=True)
