"""Artifacts: byte-identical, whole or absent, and refused when a single byte differs."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.ir.printer import print_graph
from qcompiler.runtime import artifact
from qcompiler.runtime.artifact import (
    load_graph,
    pack_graph,
    read_artifact,
    save_graph,
    write_artifact,
)
from tests.ir.build import build

MEMBERS = {"graph.qcir": b"text", "native/kernel.c": b"int x;\n" * 40, "empty": b""}
FACTS = {"target": "cpu{threads=2}", "report": [{"op": "conv2d", "bits": 8}]}


@pytest.fixture
def qcp(tmp_path: Path) -> Path:
    path = tmp_path / "a.qcp"
    write_artifact(path, MEMBERS, FACTS)
    return path


def _graph() -> QGraph:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        shared = torch.randn(2, 4, 4, 1, 1)
        for i in range(2):
            weight = graph.add_constant(shared[i], "weight", out)
            args = (x, weight, None, [1, 1], [0, 0, 0, 0], [1, 1], 1)
            x = graph.call(torch.ops.qfloat.conv2d.default, args, before=out)
        graph.module.register_buffer("weight", shared[0])
        return x

    return build(body)


def _refused(path: Path, code: str = "QC0602", match: str = "cannot be loaded") -> None:
    with pytest.raises(QCompilerError, match=match) as caught:
        read_artifact(path)
    assert caught.value.code == code


def test_reads_back_what_was_written(qcp: Path) -> None:
    found = read_artifact(qcp)
    assert dict(found.members) == MEMBERS
    assert {k: found.manifest[k] for k in FACTS} == FACTS
    assert found.manifest["content"] == artifact.content_hash(found.manifest)
    assert [p.name for p in qcp.parent.iterdir()] == ["a.qcp"]


def test_equal_members_give_equal_bytes(qcp: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.qcp"
    write_artifact(other, dict(reversed(MEMBERS.items())), dict(reversed(FACTS.items())))
    assert other.read_bytes() == qcp.read_bytes()


def test_is_a_zip_that_other_tools_read(qcp: Path) -> None:
    with zipfile.ZipFile(qcp) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_truncated_file_is_refused(qcp: Path) -> None:
    data = qcp.read_bytes()
    for tenth in range(10):
        qcp.write_bytes(data[: len(data) * tenth // 10])
        _refused(qcp)
    qcp.write_bytes(data[:-1])
    _refused(qcp)


def test_every_flipped_byte_is_noticed(qcp: Path) -> None:
    data = qcp.read_bytes()
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        qcp.write_bytes(changed)
        _refused(qcp)
    qcp.write_bytes(data + b"x")
    _refused(qcp)


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "absent.qcp", match="No such file")
    _refused(tmp_path, match="cannot be read")
    other = tmp_path / "other.qcp"
    other.write_bytes(b"PK\x03\x04 nothing")
    _refused(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a", "b")
    _refused(other, match=r"no manifest\.json")


def _sealed(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Writes a zip with a right digest but free contents."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.comment = bytes(64)
    body = held.getvalue()[:-64]
    path.write_bytes(body + artifact._digest(body).encode())


def _manifest(**changes: Any) -> bytes:
    full: dict[str, Any] = {"format": 1, "members": {"a": artifact._digest(b"a")}, **changes}
    full.setdefault("content", artifact.content_hash(full))
    return json.dumps(full).encode()


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"manifest.json": _manifest()}, "differ in a"),
        ({"manifest.json": _manifest(), "a": b"a", "b": b"b"}, "differ in b"),
        ({"manifest.json": _manifest(), "a": b"b"}, "a was changed"),
        ({"manifest.json": _manifest(content="0"), "a": b"a"}, "manifest was changed"),
        ({"manifest.json": _manifest(), "../a": b"a"}, "plain, distinct names"),
        ({"manifest.json": _manifest(), "/a": b"a"}, "plain, distinct names"),
        ({"manifest.json": _manifest(), "b/../a": b"a"}, "plain, distinct names"),
        ({"manifest.json": b"[]", "a": b"a"}, "no format version"),
        ({"manifest.json": b"{", "a": b"a"}, "no artifact"),
        ({"manifest.json": b"[" * 100_000, "a": b"a"}, "no artifact"),
        ({"manifest.json": _manifest(members=[]), "a": b"a"}, "manifest was changed"),
    ],
)
def test_contents_must_be_those_of_the_manifest(
    tmp_path: Path, entries: dict[str, bytes], problem: str
) -> None:
    path = tmp_path / "a.qcp"
    _sealed(path, entries)
    _refused(path, match=re.escape(problem))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.qcp"
    _sealed(path, {"manifest.json": _manifest(), "a": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    _refused(path, match="compressed")


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.qcp"
    _sealed(path, {"manifest.json": _manifest(format=3, qcompiler="9.0"), "a": b"a"})
    _refused(path, "QC0603", match=r"9\.0")


def test_names_that_leave_the_archive_are_an_error(tmp_path: Path) -> None:
    for name in ("../x", "/x", "a//b", ".hidden", "a\\b", "manifest.json", ""):
        with pytest.raises(ValueError, match="is no name for a member"):
            write_artifact(tmp_path / "a.qcp", {name: b""}, {})
    assert not list(tmp_path.iterdir())


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    qcp: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = qcp.read_bytes()
    monkeypatch.setattr(os, step, _no_space)
    with pytest.raises(QCompilerError, match="No space left") as caught:
        write_artifact(qcp, {"a": b"new"}, {})
    assert caught.value.code == "QC0604"
    assert qcp.read_bytes() == before
    assert [p.name for p in qcp.parent.iterdir()] == ["a.qcp"]


@pytest.mark.parametrize("spoil", [lambda p: p / "absent" / "a.qcp", lambda p: p])
def test_a_place_that_cannot_be_written_is_an_error(
    tmp_path: Path, spoil: Callable[[Path], Path]
) -> None:
    with pytest.raises(QCompilerError, match="cannot be written") as caught:
        write_artifact(spoil(tmp_path), MEMBERS, {})
    assert caught.value.code == "QC0604"
    assert not list(tmp_path.iterdir())


def test_an_unwritable_file_system_is_an_error() -> None:
    with pytest.raises(QCompilerError, match="QC0604"):
        write_artifact("/proc/a.qcp", MEMBERS, {})


def test_a_link_keeps_pointing_at_the_file(qcp: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.qcp"
    link.symlink_to(qcp)
    write_artifact(link, {"a": b"new"}, {})
    assert link.is_symlink()
    assert dict(read_artifact(qcp).members) == {"a": b"new"}


def test_a_graph_survives_an_artifact(tmp_path: Path) -> None:
    graph, x = _graph(), torch.randn(2, 4, 8, 8)
    write_artifact(tmp_path / "g.qcp", pack_graph(graph), {})
    found = read_artifact(tmp_path / "g.qcp").graph()
    assert print_graph(found) == print_graph(graph)
    assert torch.equal(found.run(x)[0], graph.run(x)[0])


def test_a_graph_survives_two_files(tmp_path: Path) -> None:
    graph = _graph()
    save_graph(graph, tmp_path / "fold.bn.qcir")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fold.bn.qcir", "fold.bn.safetensors"]
    assert print_graph(load_graph(tmp_path / "fold.bn.qcir")) == print_graph(graph)
    (tmp_path / "fold.bn.safetensors").write_bytes(b"nothing")
    with pytest.raises(QCompilerError, match="QC0602"):
        load_graph(tmp_path / "fold.bn.qcir")
    (tmp_path / "fold.bn.safetensors").unlink()
    with pytest.raises(QCompilerError, match="QC0602"):
        load_graph(tmp_path / "fold.bn.qcir")


def test_a_graph_without_constants_survives(tmp_path: Path) -> None:
    save_graph(build(lambda graph, x, out: x), tmp_path / "plain")
    assert load_graph(tmp_path / "plain").results[0].name == "x"
