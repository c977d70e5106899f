"""Compilers are found, missing or failing, and instruction-set levels follow the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qcompiler.backends.cpu import CpuTarget, isa
from qcompiler.backends.native import toolchain
from qcompiler.errors import QCompilerError
from tests.backends.test_native_program import small_network


def test_no_compiler_is_a_coded_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    with pytest.raises(QCompilerError, match="QC0801") as caught:
        CpuTarget().build(small_network())
    assert "qcompiler[zig]" in caught.value.remedy


def test_a_wrong_cc_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(QCompilerError, match="no-such-compiler") as caught:
        toolchain.find_compiler()
    assert caught.value.code == "QC0801"


def test_refused_sources_are_a_coded_error() -> None:
    with pytest.raises(QCompilerError, match="QC0803"):
        toolchain.build({"program.c": b"int broken("}, ())


def test_zig_stands_in_for_a_missing_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain.find_compiler().command[:2] == (sys.executable, "-m")
    binary = toolchain.build({"program.c": b"int answer(void) { return 42; }"}, ())
    assert binary[:4] == b"\x7fELF"


def test_levels_are_those_whose_features_the_processor_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isa, "cpu_features", lambda: frozenset({"avx2", "fma"}))
    assert [level.name for level in isa.supported_levels()] == ["portable", "avx2"]
    monkeypatch.setattr(isa, "cpu_features", frozenset)
    assert isa.best_level().name == "portable"


def test_an_unknown_level_offers_the_nearest() -> None:
    with pytest.raises(QCompilerError, match="QC0502") as caught:
        CpuTarget(isa="portabel").build(small_network())
    assert "portable" in caught.value.remedy
