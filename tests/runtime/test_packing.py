"""Packed weights in artifacts: files shrink, programs come back bit by bit, damage is refused."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import qcompiler
from qcompiler.backends.native.executable import BLOB, INDEX
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import quant_of
from qcompiler.program import Program
from qcompiler.runtime.artifact import PACKING, WEIGHTS, pack_graph, unpack_graph
from qcompiler.runtime.packing import narrow_weights

DATA = [torch.randn(8, 256, generator=torch.Generator().manual_seed(i)) for i in range(2)]
COUNT = 256 * 500 + 500 * 10


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 500), nn.ReLU(), nn.Linear(500, 10)).eval()


def compiled(net: nn.Module, scheme: str | None, target: str = "reference") -> Program:
    return qcompiler.compile(net, DATA, target=target, scheme=scheme)


@pytest.mark.parametrize(
    ("scheme", "bytes_per_weight"),
    [("w2a8", 2 / 8), ("w3g32a8", 3 / 8 + 1 / 32), ("w4g128a8", 4 / 8 + 1 / 125), ("w5a8", 5 / 8)],
)
def test_artifacts_shrink_and_load(
    net: nn.Module, tmp_path: Path, scheme: str, bytes_per_weight: float
) -> None:
    sizes = {}
    for each in (None, scheme):
        program = compiled(net, each)
        program.save(tmp_path / "a.qcp")
        sizes[each] = (tmp_path / "a.qcp").stat().st_size
    saved = COUNT * (1 - bytes_per_weight)
    assert sizes[None] - sizes[scheme] == pytest.approx(saved, rel=0.05)
    loaded = qcompiler.load(tmp_path / "a.qcp")
    assert torch.equal(loaded(DATA[0]), program(DATA[0]))
    assert loaded.report().rows == program.report().rows
    stored = sum(row.stored for row in program.report().rows)
    assert stored == pytest.approx(COUNT * bytes_per_weight, rel=0.02)
    assert any("unpacked to int8 at load" in note for note in program.report().notes)


def test_the_cpu_makes_the_constants_of_its_kernels_again(net: nn.Module, tmp_path: Path) -> None:
    plain, program = compiled(net, None, "cpu"), compiled(net, "w4g64a8", "cpu")
    for name, each in (("plain.qcp", plain), ("packed.qcp", program)):
        each.save(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "packed.qcp") as archive:
        held = set(archive.namelist())
        assert json.loads(archive.read("manifest.json"))["format"] == 2
    assert f"native/{BLOB}" not in held
    assert PACKING in held
    with zipfile.ZipFile(tmp_path / "plain.qcp") as archive:
        assert json.loads(archive.read("manifest.json"))["format"] == 1
        assert PACKING not in archive.namelist()
    sizes = [(tmp_path / name).stat().st_size for name in ("plain.qcp", "packed.qcp")]
    assert sizes[0] - sizes[1] > 1.4 * COUNT
    loaded = qcompiler.load(tmp_path / "packed.qcp")
    assert torch.equal(loaded(DATA[0]), program(DATA[0]))
    assert not any("again" in note for note in loaded.report().notes)
    loaded.save(tmp_path / "again.qcp")
    assert (tmp_path / "again.qcp").read_bytes() == (tmp_path / "packed.qcp").read_bytes()


def test_constants_of_another_form_come_with_their_own_sources(net: nn.Module) -> None:
    program = compiled(net, "w4a8", "cpu")
    files = program._executable.files()
    index = json.loads(files[INDEX])
    index["constants_sha256"] = hashlib.sha256(b"older").hexdigest()
    files[INDEX] = json.dumps(index).encode()
    files["src/program.c"] = b"#error of an older release"
    restored = program.target.restore(program.graph, files)
    assert torch.equal(restored.run([DATA[0]], 1)[0], program(DATA[0]))
    assert any("another form" in note for note in restored.notes())


def test_weights_that_left_their_width_are_stored_whole(net: nn.Module) -> None:
    graph = compiled(net, "w4a8").graph.copy()
    first = next(narrow_weights(graph)).node
    weight = graph.constant(first).clone()
    weight[0, 0] = 100
    graph.set_constant(first, weight)
    members = pack_graph(graph)
    assert str(first.target) not in json.loads(members[PACKING])
    back = unpack_graph(members)
    assert torch.equal(back.constant(back.node(first.name)), weight)


def test_damaged_packing_is_refused(net: nn.Module) -> None:
    members = pack_graph(compiled(net, "w4g32a8").graph)
    forms = json.loads(members[PACKING])
    name = sorted(forms)[0]
    for change in (
        {"bits": 5},
        {"bits": 9},
        {"group": 31},
        {"group": 0},
        {"shape": [500]},
        {"shape": [500, -256]},
        {"shape": None},
    ):
        wrong = json.dumps({**forms, name: {**forms[name], **change}}).encode()
        with pytest.raises(QCompilerError, match="QC060"):
            unpack_graph({**members, PACKING: wrong})
    for text in (b"[]", b"{", b'{"absent": {"bits": 4, "group": 0, "shape": [1]}}'):
        with pytest.raises(QCompilerError, match="QC0602"):
            unpack_graph({**members, PACKING: text})
    with pytest.raises(QCompilerError, match="QC0601"):
        unpack_graph({k: v for k, v in members.items() if k != PACKING})


def test_the_same_seed_gives_the_same_bytes(net: nn.Module) -> None:
    first, second = (pack_graph(compiled(net, "w3g64a8").graph) for _ in range(2))
    assert first[WEIGHTS] == second[WEIGHTS]
    assert first[PACKING] == second[PACKING]


def test_facts_of_the_weights_are_kept(net: nn.Module) -> None:
    graph = compiled(net, "w6g32a8").graph
    assert [(w.bits, w.group) for w in narrow_weights(graph)] == [(6, 32), (6, 32)]
    assert all(str(quant_of(w.node).qtype) == "s6n:group:0:32" for w in narrow_weights(graph))
