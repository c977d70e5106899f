"""The ``.qcp`` file: one zip of a program's manifest, text IR, weights, sources and binary.

Writing is atomic and deterministic. Reading checks every byte, unpacks nothing to disk and
unpickles nothing. Members are stored uncompressed; the manifest states the sha256 of each, and the
zip's comment is the sha256 of all that precedes it. The layout is in docs/reference/artifact.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import graph_constants, print_graph
from qcompiler.runtime.files import write_whole
from qcompiler.runtime.packing import pack_constants, unpack_constants

FORMAT_VERSION = 2
"""The newest format, that of packed weights; without them an artifact is of format 1."""

MANIFEST = "manifest.json"
GRAPH = "graph.qcir"
WEIGHTS = "weights.safetensors"
PACKING = "packing.json"

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
_PART = r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*"
_PLAIN_NAME = re.compile(rf"{_PART}(/{_PART})*", re.ASCII)
_DIGEST_LENGTH = 64
_MAX_MANIFEST = 2**26
_MAX_FILE = 2**32


@dataclass(frozen=True)
class Artifact:
    """What a ``.qcp`` file holds: the manifest and the bytes of every other member."""

    manifest: Mapping[str, Any]
    members: Mapping[str, bytes]

    def graph(self) -> QGraph:
        """Returns the program's graph.

        Raises:
            QCompilerError: QC0601 or QC0602 when text and weights do not make a graph.
        """
        return unpack_graph(self.members)


def write_artifact(
    path: str | os.PathLike[str], members: Mapping[str, bytes], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes an artifact as a whole or not at all and returns its completed manifest.

    Args:
        path: where the file will stand; an existing one is replaced.
        members: the bytes of each member by name.
        manifest: what JSON holds; ``format``, ``members`` and ``content`` are added.

    Raises:
        QCompilerError: QC0604 when the file cannot be written; nothing is left behind.
        ValueError: the name of a member is not a plain relative one.
    """
    for name in members:
        if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            message = f"{name!r} is no name for a member"
            raise ValueError(message)
    stated = {name: _digest(members[name]) for name in sorted(members)}
    version = FORMAT_VERSION if PACKING in members else 1
    full = {**manifest, "format": version, "members": stated}
    full["content"] = content_hash(full)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((MANIFEST, _json(full)), *((n, members[n]) for n in stated)):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr, info.create_system = _MODE, 3
            archive.writestr(info, data)
        archive.comment = bytes(_DIGEST_LENGTH)
    body = held.getvalue()[:-_DIGEST_LENGTH]
    write_whole(path, body + _digest(body).encode())
    return full


def content_hash(manifest: Mapping[str, Any]) -> str:
    """Returns the sha256 of a manifest without its content hash, and so of all members."""
    return _digest(_json({k: v for k, v in manifest.items() if k != "content"}))


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Reads an artifact into memory and checks it against its manifest.

    Raises:
        QCompilerError: QC0603 for a newer format, QC0602 for a file that is not there, no artifact,
            truncated or changed.
    """
    try:
        if Path(path).stat().st_size > _MAX_FILE:
            _refuse(f"{path} is larger than {_MAX_FILE} bytes")
        data = Path(path).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _checked(archive, data)
    except OSError as error:
        _refuse(f"{path} cannot be read: {error.strerror or error}", error)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        _refuse(f"{path} is no artifact or was changed: {error}", error)


def _checked(archive: zipfile.ZipFile, data: bytes) -> Artifact:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) != len(names) or not all(_PLAIN_NAME.fullmatch(n) for n in names):
        _refuse("its members have no plain, distinct names")
    sizes = [info.file_size for info in infos]
    if sizes != [info.compress_size for info in infos] or sum(sizes) > len(data):
        _refuse("its members are compressed or overlap")
    if MANIFEST not in names or archive.getinfo(MANIFEST).file_size > _MAX_MANIFEST:
        _refuse(f"it has no {MANIFEST}")
    manifest = _read_manifest(archive.read(MANIFEST))
    if _digest(data[:-_DIGEST_LENGTH]).encode() != data[-_DIGEST_LENGTH:]:
        _refuse("it was changed")
    stated = manifest["members"]
    if odd := {MANIFEST, *stated}.symmetric_difference(names):
        _refuse(f"manifest and zip differ in {', '.join(sorted(odd))}")
    members = {name: archive.read(name) for name in stated}
    for name, held in members.items():
        if _digest(held) != stated[name]:
            _refuse(f"{name} was changed")
    return Artifact(manifest, members)


def _read_manifest(text: bytes) -> dict[str, Any]:
    loaded: object = json.loads(text)
    manifest: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    version = manifest.get("format")
    if not isinstance(version, int) or version < 1:
        _refuse("its manifest states no format version")
    if version > FORMAT_VERSION:
        raise QCompilerError(
            "QC0603",
            f"the artifact has format {version}; this release reads {FORMAT_VERSION}",
            remedy=f"install the version that wrote it: {manifest.get('qcompiler', 'a newer one')}",
        )
    stated = manifest.get("members")
    if not isinstance(stated, dict) or manifest.get("content") != content_hash(manifest):
        _refuse("its manifest was changed")
    return manifest


def pack_graph(graph: QGraph) -> dict[str, bytes]:
    """Returns a graph as members of an artifact: its text, its constants, the form of packed ones.

    Weights of less than 8 bits are stored at their width.
    """
    constants, forms = pack_constants(graph, graph_constants(graph))
    packing = {} if forms is None else {PACKING: forms}
    return {GRAPH: print_graph(graph).encode(), WEIGHTS: _saved(constants), **packing}


def _saved(constants: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save(_unshared(constants))


def unpack_graph(members: Mapping[str, bytes]) -> QGraph:
    """Returns the graph of an artifact's members.

    Raises:
        QCompilerError: QC0602 when a member is missing or unreadable, QC0601 for a wrong text.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    for name in (GRAPH, WEIGHTS):
        if name not in members:
            _refuse(f"it has no {name}")
    try:
        constants = load(members[WEIGHTS])
        if PACKING in members:
            constants = unpack_constants(constants, members[PACKING])
        return parse_graph(members[GRAPH].decode(), constants)
    except (SafetensorError, ValueError) as error:
        _refuse(f"its graph or weights cannot be read: {error}", error)


def save_graph(graph: QGraph, path: str | os.PathLike[str]) -> None:
    """Writes a graph as ``name.qcir`` and its constants next to it as ``name.safetensors``.

    Raises:
        QCompilerError: QC0604 when a file cannot be written.
    """
    write_whole(_beside(path, ".safetensors"), _saved(graph_constants(graph)))
    write_whole(_beside(path, ".qcir"), print_graph(graph).encode())


def load_graph(path: str | os.PathLike[str]) -> QGraph:
    """Reads the graph that ``save_graph`` wrote.

    Raises:
        QCompilerError: QC0602 when a file is missing or unreadable, QC0601 when the text is wrong.
    """
    members = {}
    try:
        for name, suffix in ((GRAPH, ".qcir"), (WEIGHTS, ".safetensors")):
            members[name] = _beside(path, suffix).read_bytes()
    except OSError as error:
        _refuse(f"{error.filename} cannot be read: {error.strerror}", error)
    return unpack_graph(members)


def _beside(path: str | os.PathLike[str], suffix: str) -> Path:
    whole = Path(path)
    return whole.with_name(whole.name.removesuffix(".qcir") + suffix)


def _unshared(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies tensors that share memory with others; safetensors holds each by itself."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        shared = place in seen or tensor.untyped_storage().nbytes() != tensor.nbytes
        found[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor
        seen.add(place)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(problem: str, cause: Exception | None = None) -> NoReturn:
    raise QCompilerError(
        "QC0602",
        f"the artifact cannot be loaded: {problem}",
        remedy="copy the file again from where it was made, or compile the model again",
    ) from cause
