"""A graph on disk for people: text IR in a ``.qcir`` file, its constants in a file beside it."""

from __future__ import annotations

from pathlib import Path

from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.artifact import (
    GRAPH,
    WEIGHTS,
    atomic_file,
    pack_graph,
    read_artifact,
    unpack_graph,
)


def constants_path(path: Path) -> Path:
    """Returns where the constants of a text IR file stand: the same name, ``.safetensors``."""
    return path.with_suffix(".safetensors")


def save_graph(graph: QGraph, path: Path) -> None:
    """Writes a graph as text IR and its constants beside it.

    Raises:
        QCompilerError: a file cannot be written (QC0604).
    """
    members = pack_graph(graph)
    for place, name in ((constants_path(path), WEIGHTS), (path, GRAPH)):
        with atomic_file(place) as file:
            file.write(members[name])


def load_graph(path: Path) -> QGraph:
    """Reads a graph from a text IR file, or from an artifact (``.qcp``).

    Raises:
        QCompilerError: a file is missing or unreadable (QC0602), or the text is wrong (QC0601).
    """
    if path.suffix == ".qcp":
        return read_artifact(path).graph()
    places = {GRAPH: path, WEIGHTS: constants_path(path)}
    try:
        return unpack_graph({name: place.read_bytes() for name, place in places.items()})
    except OSError as cause:
        raise QCompilerError(
            "QC0602",
            f"{cause.filename} cannot be read: {cause.strerror}",
            remedy="keep the .qcir and the .safetensors file of a graph together",
        ) from cause
