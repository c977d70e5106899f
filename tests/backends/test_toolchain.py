"""Compilers are found, missing or failing; objects of the kernel library are kept on disk."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch

from qcompiler.backends.cpu import CpuTarget, isa
from qcompiler.backends.native import object_cache, toolchain
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.errors import QCompilerError
from tests.backends.test_native_program import small_network


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for objects, and none of them in this process."""
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path / "cache"))
    toolchain._kept_object.cache_clear()
    return tmp_path / "cache" / "objects"


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


@pytest.mark.parametrize(("variable", "code"), [("CC", "QC0801"), ("QCOMPILER_CFLAGS", "QC0803")])
def test_a_variable_that_is_no_words_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    monkeypatch.setenv(variable, 'gcc "-O2')
    assert not toolchain.has_compiler()
    with pytest.raises(QCompilerError, match="no closing quotation") as caught:
        toolchain.find_compiler()
    assert caught.value.code == code
    assert caught.value.problem.startswith(f"{variable} is 'gcc \"-O2'")


def test_a_compiler_that_cannot_be_run_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no program")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert not toolchain.has_compiler()
    with pytest.raises(QCompilerError, match=r"QC0801.*broken cannot be run"):
        toolchain.find_compiler()


def test_a_compiler_that_writes_nothing_is_a_coded_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "true")
    with pytest.raises(QCompilerError, match=r"QC0803: true reported success and wrote no unit\.o"):
        CpuTarget(isa="portable").build(small_network())
    assert not any(toolchain.accepts(level) for level in isa.LEVELS if level.flags)


@pytest.mark.parametrize("cc", ["true", "false", 'gcc "-O2', "no-such-compiler"])
def test_an_artifact_that_fits_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, cc: str) -> None:
    network = small_network()
    files = CpuTarget().build(network).files()
    monkeypatch.setenv("CC", cc)
    restored = CpuTarget().restore(network, files)
    assert restored.files() == files
    assert not any("again" in note for note in restored.notes())


def test_refused_sources_are_a_coded_error() -> None:
    with pytest.raises(QCompilerError, match="QC0803"):
        toolchain.build({**kernel_sources(), "program.c": b"int broken("}, ())


def test_refused_flags_are_a_coded_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CFLAGS", "-fno-such-option")
    with pytest.raises(QCompilerError, match=r"QC0803.*no-such-option"):
        CpuTarget(isa="portable").build(small_network())


def test_zig_stands_in_for_a_missing_compiler_and_builds_for_any_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler = toolchain.find_compiler()
    assert compiler.command[:2] == (sys.executable, "-m")
    assert compiler.flags[0] == "-mcpu=baseline"
    unit = b"#ifdef __AVX2__\n#error\n#endif\nint answer(void) { return 42; }"
    binary = toolchain.build({"qc.h": b"#include <stdint.h>\n", "program.c": unit}, ())
    assert binary[:4] == b"\x7fELF"


# -- objects on disk -----------------------------------------------------------------------------


SOURCES = {
    "qc.h": b"#include <stddef.h>\n#include <stdint.h>\nint qc_answer(void);\n",
    "answer.c": b'#include "qc.h"\nint qc_answer(void) { return 42; }\n',
    "program.c": b"int main(void) { return qc_answer(); }\n",
}


def built() -> bytes:
    """Returns a library that is built without what this process remembers."""
    toolchain._kept_object.cache_clear()
    return toolchain.build(SOURCES, isa.LEVELS[:1])


def test_objects_come_from_the_cache_and_give_the_same_library(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built()
    kept = sorted(cache.iterdir())
    assert len(kept) == 2
    compiled: list[str] = []
    compile_unit = toolchain._compile

    def observed(compiler: toolchain.Compiler, unit: toolchain.Unit) -> bytes:
        compiled.append(unit.name)
        return compile_unit(compiler, unit)

    monkeypatch.setattr(toolchain, "_compile", observed)
    assert built() == first
    assert compiled == ["program.c"]
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    kept[1].unlink()
    assert built() == first
    assert sorted(compiled) == ["answer.c", "dispatch.c", "program.c", "program.c"]
    assert sorted(cache.iterdir()) == kept
    monkeypatch.setenv("QCOMPILER_CFLAGS", "-DQC_OTHER")
    built()
    assert len(list(cache.iterdir())) == 2 * len(kept)


def test_a_cache_that_cannot_be_used_changes_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = built()
    (tmp_path / "file").write_bytes(b"")
    for folder in ("", str(tmp_path / "file")):
        monkeypatch.setenv("QCOMPILER_CACHE", folder)
        assert built() == first
    assert (tmp_path / "file").read_bytes() == b""


def test_the_objects_read_last_stay_when_there_are_too_many(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_cache, "MAX_FILES", 8)
    for i in range(8):
        object_cache.write(f"{i}", bytes([i]))
        os.utime(cache / f"{i}", (i, i))
    assert object_cache.read("0") == b"\0"
    object_cache.write("8", b"new")
    assert sorted(path.name for path in cache.iterdir()) == ["0", "3", "4", "5", "6", "7", "8"]


def test_the_cache_stands_where_the_system_wants_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("QCOMPILER_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert object_cache.folder() == tmp_path / ".cache" / "qcompiler" / "objects"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert object_cache.folder() == tmp_path / "x" / "qcompiler" / "objects"


CLANG = next(filter(shutil.which, ("clang", *(f"clang-{n}" for n in range(22, 14, -1)))), None)


@pytest.mark.skipif(CLANG is None, reason="clang is not installed")
def test_clang_builds_levels_of_every_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(CLANG))
    network = small_network()
    program = CpuTarget(isa="portable+avx2+best").build(network)
    image = torch.randn(2, 3, 17, 15)
    for want, have in zip(network.run(image), program.run([image], 2), strict=True):
        assert torch.equal(want, have)


def test_the_library_is_compiled_ahead_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    compiled: list[str] = []
    compile_unit = toolchain._compile

    def counting(compiler: toolchain.Compiler, unit: toolchain.Unit) -> bytes:
        compiled.append(unit.name)
        return compile_unit(compiler, unit)

    monkeypatch.setattr(toolchain, "_compile", counting)
    target = CpuTarget(isa="portable")
    target.warm_up()
    target.build(small_network())
    for thread in threading.enumerate():
        if thread.name == "qcompiler-warm-up":
            thread.join()
    assert sorted(compiled) == sorted(set(compiled)), "no unit is compiled twice"
    assert "conv2d.c" in compiled
