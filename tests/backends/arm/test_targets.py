"""Names of ARM targets, what they refuse, and what is missing on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler import registry
from qcompiler.api import resolve_target
from qcompiler.backends.arm import cross
from qcompiler.backends.arm.executable import ArmTarget
from qcompiler.backends.arm.isa import CORES, LEVELS
from qcompiler.backends.arm.target import AProfileTarget
from qcompiler.errors import QCompilerError
from qcompiler.passmgr.describe import target_class
from tests.backends.test_native_program import small_network


def arm_targets() -> list[type[ArmTarget]]:
    """Returns the classes of all registered ARM targets."""
    classes = [target_class(name) for name in registry.names(registry.TARGETS)]
    return [c for c in classes if issubclass(c, ArmTarget)]


def test_every_core_is_a_target_with_its_best_level() -> None:
    found = {c.name: c for c in arm_targets() if issubclass(c, AProfileTarget)}
    assert set(CORES) <= set(found)
    for name, core in CORES.items():
        assert found[name].levels == (core.level,)
        assert found[name].core is core


def test_the_fat_target_carries_every_level() -> None:
    target = resolve_target("armv8-fat")
    assert isinstance(target, ArmTarget)
    assert target.levels == LEVELS
    assert target.form.weights == ("panels", "pairs")


@pytest.mark.parametrize(
    ("wrong", "offered"),
    [
        ("cortex-a54", "cortex-a53"),
        ("neoverse-n3", "neoverse-n2"),
        ("armv8.2-a+dotprot", "armv8.2-a+dotprod"),
    ],
)
def test_an_unknown_core_or_feature_is_told_its_neighbours(wrong: str, offered: str) -> None:
    with pytest.raises(QCompilerError) as caught:
        resolve_target(wrong)
    assert caught.value.code == "QC0506"
    assert offered in caught.value.remedy


def test_no_cross_compiler_leaves_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cross.COMPILER, "no-such-compiler")
    network = small_network()
    program = resolve_target("cortex-a53").build(network)
    assert any("no-such-compiler" in note for note in program.notes())
    with pytest.raises(QCompilerError) as caught:
        program.run([torch.zeros(1, 3, 17, 15)], 1)
    assert caught.value.code == "QC0821"
    assert "gcc-aarch64-linux-gnu" in caught.value.remedy
    assert "src/model.c" in program.project("model", weights_array=False)
    assert "program" not in program.files()


def test_a_compiler_for_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It builds executables of this machine, with options that it does not know."""
    monkeypatch.setenv(cross.COMPILER, "false")
    with pytest.raises(QCompilerError) as caught:
        cross.find_cross_compiler()
    assert caught.value.code == "QC0821"
    monkeypatch.setenv(cross.COMPILER, "'")
    with pytest.raises(QCompilerError) as caught:
        cross.find_cross_compiler()
    assert caught.value.code == "QC0821"


def test_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    program = resolve_target("cortex-a53").build(small_network())
    monkeypatch.setattr(cross, "is_native", lambda: False)
    monkeypatch.setenv(cross.EMULATOR, "no-such-emulator")
    with pytest.raises(QCompilerError) as caught:
        program.run([torch.zeros(1, 3, 17, 15)], 1)
    assert caught.value.code == "QC0822"
    assert "qemu-user" in caught.value.remedy
    monkeypatch.delenv(cross.EMULATOR)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(QCompilerError) as caught:
        cross.emulator("max")
    assert caught.value.code == "QC0822"


class _Odd(nn.Module):
    """Adds values up along a dimension, which has no integer form."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns sums of what came before."""
        return torch.cumsum(torch.relu(x), 1)


def test_float_islands_are_refused() -> None:
    data = [torch.randn(4, 8)]
    with pytest.raises(QCompilerError) as caught:
        qc.compile(_Odd(), data, target="cortex-a53", strict=False)
    assert caught.value.code == "QC0201"
    assert "test_targets.py" in (caught.value.source or "")


class _Deep(nn.Module):
    """Has values of more dimensions than kernels take."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns all features in another order."""
        y = torch.relu(x).reshape(-1, 1, 2, 1, 2, 1, 2, 1, 1)
        return y.permute(0, 8, 7, 6, 5, 4, 3, 2, 1)


@pytest.mark.parametrize("target", ["cortex-a76", "cortex-m55"])
def test_an_operator_without_a_kernel_is_told_with_reason_and_line(target: str) -> None:
    with pytest.raises(QCompilerError) as caught:
        qc.compile(_Deep(), [torch.randn(4, 8)], target=target)
    assert caught.value.code == "QC0201"
    assert "has 9 dimensions, kernels take 8" in caught.value.problem
    assert "y = torch.relu(x).reshape(" in (caught.value.source or "")


class _Dense(nn.Module):
    """Two layers of which the first holds most constants."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(400, 50), nn.Linear(50, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        logits: torch.Tensor = self.small(torch.relu(self.large(x)))
        return logits


@pytest.mark.parametrize(("kind", "size"), [("flash", 10_000), ("ram", 200)])
def test_a_model_that_does_not_fit_names_the_largest(kind: str, size: int) -> None:
    data = [torch.randn(8, 400)]
    with pytest.raises(QCompilerError) as caught:
        qc.compile(_Dense(), data, target="cortex-a53", memory={kind: size})
    error = caught.value
    assert error.code == "QC0826"
    lines = error.problem.splitlines()
    assert f"and cortex-a53 has {size}" in lines[0]
    counts = [int(line.split()[0]) for line in lines[1:]]
    assert counts
    assert counts == sorted(counts, reverse=True)
    if kind == "flash":
        assert "test_targets.py" in lines[1]
        assert counts[0] >= 400 * 50


def test_a_model_that_fits(tmp_path: Path) -> None:
    data = [torch.randn(8, 400)]
    memory = {"flash": 100_000, "ram": 100_000}
    program = qc.compile(_Dense(), data, target="cortex-a53", memory=memory)
    written = program.export_c(tmp_path / "dist")
    assert written.memory["flash"] == (tmp_path / "dist/data/weights.bin").stat().st_size
    header = (tmp_path / "dist/include/model.h").read_text()
    assert f"#define MODEL_ARENA_BYTES {written.memory['ram']}\n" in header
    assert f"ram {written.memory['ram']} bytes" in str(written)
    program.save(tmp_path / "a.qcp")
    assert qc.load(tmp_path / "a.qcp").target == program.target


@pytest.mark.parametrize(
    ("target", "memory"),
    [
        ("cortex-a53", {"rom": 5}),
        ("cortex-a53", {"ram": 0}),
        ("cortex-a53", {"ram": True}),
        ("reference", {"ram": 5}),
    ],
)
def test_limits_of_another_form(target: str, memory: dict[str, int]) -> None:
    with pytest.raises(QCompilerError) as caught:
        qc.compile(_Dense(), [torch.randn(8, 400)], target=target, memory=memory)
    assert caught.value.code == "QC0827"


def test_a_target_without_projects(tmp_path: Path) -> None:
    program = qc.compile(_Dense(), [torch.randn(8, 400)], target="reference")
    with pytest.raises(QCompilerError) as caught:
        program.export_c(tmp_path)
    assert caught.value.code == "QC0825"
