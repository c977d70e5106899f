"""Levels: which a text names, which one runs, and what an artifact does on another machine."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.api import resolve_target
from qcompiler.backends.cpu import CpuTarget, isa
from qcompiler.backends.cpu.target import CpuExecutable
from qcompiler.backends.native import levels, toolchain
from qcompiler.backends.native.emitter import emit, kernel_sources, plan_sequentially
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.options import format_pass
from tests.backends.helpers import LEVELS
from tests.backends.test_native_program import small_network

IMAGE = torch.randn(2, 3, 17, 15)
BEST = LEVELS[-1].name


@pytest.fixture(scope="module")
def network() -> QGraph:
    """A network of every layer kind."""
    return small_network()


@pytest.fixture(autouse=True)
def _no_forced_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(isa.VARIABLE, raising=False)


def assert_right(network: QGraph, program: CpuExecutable) -> None:
    for want, have in zip(network.run(IMAGE), program.run([IMAGE], 2), strict=True):
        assert torch.equal(want, have)


def pretend(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    """Lets the machine have only the given features, as far as Python looks."""
    monkeypatch.setattr(isa, "cpu_features", lambda: frozenset(features))


# -- names ---------------------------------------------------------------------------------------


def test_levels_are_those_whose_features_the_processor_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for features, names in (
        ((), ["portable"]),
        (("avx2",), ["portable"]),
        (("avx2", "fma"), ["portable", "avx2"]),
        (("avx2", "fma", "avx_vnni"), ["portable", "avx2", "avxvnni"]),
    ):
        pretend(monkeypatch, *features)
        assert [level.name for level in isa.supported_levels()] == names
        assert isa.best_level().name == names[-1]


def test_an_unknown_level_offers_those_there_are() -> None:
    for text in ("portabel", "portabel+avx2", "avx2+"):
        with pytest.raises(QCompilerError, match="QC0502") as caught:
            isa.parse_levels(text)
        assert "portable" in caught.value.remedy


def test_several_levels_are_joined_in_any_order_and_once() -> None:
    chosen = isa.parse_levels("avx2+portable+avx2")
    assert [level.name for level in chosen] == ["portable", "avx2"]
    assert isa.parse_levels(f"best+{BEST}") == (isa.best_level(),)
    assert isa.parse_levels("portable+all") == isa.parse_levels("all")
    assert {"portable", BEST} <= {level.name for level in isa.parse_levels("all")}


def test_a_level_for_another_machine_comes_with_one_for_this(
    monkeypatch: pytest.MonkeyPatch, network: QGraph
) -> None:
    pretend(monkeypatch)
    with pytest.raises(QCompilerError, match="QC0804") as caught:
        CpuTarget(isa="avx2").build(network)
    assert "isa=avx2+best" in caught.value.remedy
    program = CpuTarget(isa="avx2+best").build(network)
    assert program.isa.name == "portable"
    assert_right(network, program)


def test_a_level_that_the_compiler_cannot_build_is_refused_and_left_out_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = levels.Feature("avx2", "no-such-option", 7, 0, 1, 5, 6)
    odd = levels.Isa("odd", (unknown,))
    monkeypatch.setattr(isa, "LEVELS", (*isa.LEVELS, odd))
    monkeypatch.setattr(isa, "_BY_NAME", {level.name: level for level in isa.LEVELS})
    assert odd not in isa.parse_levels("all")
    assert isa.best_level() != odd
    with pytest.raises(QCompilerError, match="cannot build odd") as caught:
        isa.parse_levels("odd+portable")
    assert caught.value.code == "QC0804"


def test_the_text_of_a_target_with_several_levels_round_trips() -> None:
    target = CpuTarget(isa="portable+avx2")
    assert format_pass(target) == "cpu{isa=portable+avx2}"
    assert resolve_target("cpu{isa=portable+avx2}") == target


# -- the library ---------------------------------------------------------------------------------


def test_the_library_detects_the_levels_that_the_system_lists(
    network: QGraph, tmp_path: Path
) -> None:
    built = isa.parse_levels("all")
    sources = emit(network, plan_sequentially(network))
    (tmp_path / "program.so").write_bytes(toolchain.build(sources.files, built))
    library = ctypes.CDLL(str(tmp_path / "program.so"))
    library.qc_level.restype = ctypes.c_char_p
    runs = [level for level in built if isa.is_supported(level)]
    assert library.qc_level() == runs[-1].name.encode()
    for level in built:
        before = library.qc_level()
        expected = 0 if level in runs else -1
        assert library.qc_select(level.name.encode()) == expected
        assert library.qc_level() == (level.name.encode() if level in runs else before)
    assert library.qc_select(b"none") == -1
    assert library.qc_select(None) == 0
    assert library.qc_level() == runs[-1].name.encode()


def test_every_function_of_the_interface_is_chosen_by_level() -> None:
    made = levels.generated(kernel_sources(), LEVELS)
    declared = set(re.findall(r"\b(qc_\w+)\(", kernel_sources()["qc.h"].decode()))
    shared = {"qc_pool_acquire", "qc_pool_release", "qc_parallel"}
    for level in LEVELS:
        header = made[levels.names_header(level)].decode()
        renamed = dict(line.split()[1:] for line in header.splitlines())
        assert declared - shared <= set(renamed)
        assert not shared & set(renamed)
        assert all(new == f"{old}_{level.name}" for old, new in renamed.items())
        for name in declared - shared:
            assert f"{name}_{level.name},".encode() in made[levels.DISPATCH]


def test_one_library_runs_at_each_level_that_it_carries(network: QGraph) -> None:
    text = "+".join(level.name for level in LEVELS)
    files = CpuTarget(isa=text).build(network).files()
    assert json.loads(files["native.json"])["levels"] == [level.name for level in LEVELS]
    for level in LEVELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(isa.VARIABLE, level.name)
            program = CpuTarget(isa=text).restore(network, files)
        assert program.isa == level
        assert program.files() == files
        kernels = [name.partition("{")[0] for name in program.kernels().values()]
        assert all(name.endswith(f"_{level.name}") for name in kernels)
        assert_right(network, program)


# -- QCOMPILER_ISA -------------------------------------------------------------------------------


def test_the_forced_level_is_what_best_means(
    monkeypatch: pytest.MonkeyPatch, network: QGraph
) -> None:
    monkeypatch.setenv(isa.VARIABLE, "portable")
    program = CpuTarget().build(network)
    assert program.isa.name == "portable"
    assert json.loads(program.files()["native.json"])["levels"] == ["portable"]
    assert_right(network, program)


def test_the_forced_level_is_added_to_those_asked_for(
    monkeypatch: pytest.MonkeyPatch, network: QGraph
) -> None:
    monkeypatch.setenv(isa.VARIABLE, "portable")
    program = CpuTarget(isa=BEST).build(network)
    assert program.isa.name == "portable"
    carried = [level.name for level in LEVELS if level.name in ("portable", BEST)]
    assert json.loads(program.files()["native.json"])["levels"] == carried
    assert len(carried) == 1 or "QCOMPILER_ISA adds the level portable" in program.notes()[1]


@pytest.mark.parametrize("name", ["avx3", "avx512vnni"])
def test_a_wrong_forced_level_names_those_there_are(
    monkeypatch: pytest.MonkeyPatch, network: QGraph, name: str
) -> None:
    files = CpuTarget(isa="portable").build(network).files()
    pretend(monkeypatch, "avx2", "fma")
    monkeypatch.setenv(isa.VARIABLE, name)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: CpuTarget().build(network),
        lambda: CpuTarget(isa="portable").build(network),
        lambda: CpuTarget(isa="portable").restore(network, files),
    )
    for attempt in attempts:
        with pytest.raises(QCompilerError, match=name) as caught:
            attempt()
        assert caught.value.code == "QC0804"
        assert "one of portable, avx2," in caught.value.remedy


# -- artifacts -----------------------------------------------------------------------------------


def restored(network: QGraph, target: CpuTarget, files: dict[str, bytes]) -> CpuExecutable:
    program = target.restore(network, files)
    assert_right(network, program)
    assert target.restore(network, program.files()).files() == program.files()
    return program


def test_an_artifact_runs_at_the_level_that_was_asked_for(network: QGraph) -> None:
    target = CpuTarget(isa="portable")
    program = restored(network, target, target.build(network).files())
    assert program.isa.name == "portable"
    best = "" if BEST == "portable" else f"; this machine has {BEST}"
    assert program.notes() == (f"cpu: runs at the level portable of portable{best}",)


def test_an_artifact_without_the_forced_level_is_built_for_it(
    monkeypatch: pytest.MonkeyPatch, network: QGraph
) -> None:
    files = CpuTarget().build(network).files()
    for level in LEVELS[:-1]:
        monkeypatch.setenv(isa.VARIABLE, level.name)
        program = restored(network, CpuTarget(), files)
        assert program.isa == level
        assert f"it carries {BEST} and not {level.name}" in program.notes()[-1]


def test_an_artifact_of_a_better_machine_is_built_for_this_one(
    monkeypatch: pytest.MonkeyPatch, network: QGraph
) -> None:
    target = CpuTarget(isa=BEST)
    files = target.build(network).files()
    pretend(monkeypatch)
    program = restored(network, target, files)
    assert program.isa.name == "portable"
    if BEST != "portable":
        assert f"it carries {BEST} and not a level of this machine" in program.notes()[-1]


def test_an_artifact_of_a_lesser_machine_is_built_for_the_best_level(
    monkeypatch: pytest.MonkeyPatch, network: QGraph
) -> None:
    with pytest.MonkeyPatch.context() as lesser:
        pretend(lesser)
        files = CpuTarget().build(network).files()
        assert CpuTarget().build(network).isa.name == "portable"
    program = restored(network, CpuTarget(), files)
    assert program.isa.name == BEST
    monkeypatch.setenv("CC", "no-such-compiler")
    program = restored(network, CpuTarget(), files)
    assert program.isa.name == "portable"
    if BEST != "portable":
        assert f"this machine has {BEST}" in program.notes()[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"program.so": (b"", b"not a library ")}, "the system cannot map it"),
        ({"native.json": (b'"machine": "', b'"machine": "other-')}, "this is "),
        ({"native.json": (b'"system": "', b'"system": "Other')}, "it was built on Other"),
    ],
)
def test_a_library_that_does_not_fit_is_built_again_and_the_report_says_so(
    network: QGraph, change: dict[str, tuple[bytes, bytes]], reason: str
) -> None:
    target = CpuTarget(isa=f"portable+{BEST}")
    files = target.build(network).files()
    for name, (old, new) in change.items():
        files[name] = files[name].replace(old, new, 1)
    program = restored(network, target, files)
    assert program.isa.name == BEST
    assert reason in program.notes()[-1]
    assert "built the artifact's library again" in program.notes()[-1]


def test_the_report_of_a_loaded_program_begins_with_its_level(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = torch.randn(4, 6)
    program = qcompiler.compile(torch.nn.Linear(6, 5), [x], target=f"cpu{{isa=portable+{BEST}}}")
    program.save(tmp_path / "a.qcp")
    monkeypatch.setenv(isa.VARIABLE, " portable ")
    loaded = qcompiler.load(tmp_path / "a.qcp")
    assert torch.equal(loaded(x), program(x))
    for one, level in ((program, BEST), (loaded, "portable")):
        report = one.report()
        assert report.notes[0].startswith(f"cpu: runs at the level {level} of portable")
        assert f"_{level}" in report.rows[1].kernel
        assert report.notes[0] in report.text()
