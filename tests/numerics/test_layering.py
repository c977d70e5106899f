"""The arithmetic imports no graph: only torch, scipy, the standard library, errors and itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qcompiler.numerics

FILES = sorted(Path(qcompiler.numerics.__path__[0]).glob("*.py"))
ALLOWED = ("torch", "numpy", "scipy", "qcompiler.errors", "qcompiler.numerics")
STANDARD = (
    "__future__", "collections", "dataclasses", "enum", "fractions", "functools", "importlib",
    "math", "time", "typing",
)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numerics_imports_no_graph(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.startswith(ALLOWED) or name.split(".")[0] in STANDARD
            assert not name.startswith("torch.")
        assert not (isinstance(node, ast.Attribute) and node.attr in ("fx", "export"))
