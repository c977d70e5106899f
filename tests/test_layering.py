"""The rules between folders, read from the source with ``ast``; docs/layout.md explains them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = 400
# Of a line of C.
COLUMNS = 120
# Files longer than that, each with its reason.
LONG_FILES: dict[str, str] = {}
# Folders of passes/ that hold one pass per file.
PASS_FOLDERS = ("analysis", "rewrite", "lowering")


def _sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Yields the path from the root and the tree of each module, each file once."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if relative.parts[:2] not in (("qcompiler", "passes"), ("qcompiler", "backends")):
                yield str(relative), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, *, runtime_only: bool = False) -> Iterator[str]:
    """Yields the dotted names that a module imports; ``from a import b`` gives ``a.b``."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_core_reaches_passes_and_backends_only_through_the_registry() -> None:
    for path, tree in _sources("qcompiler"):
        for name in _imports(tree):
            assert not _within(name, "qcompiler.passes"), f"{path} imports {name}"
            assert not _within(name, "qcompiler.backends"), f"{path} imports {name}"


def test_passes_never_import_backends() -> None:
    for path, tree in _sources("passes"):
        for name in _imports(tree):
            assert not _within(name, "qcompiler.backends"), f"{path} imports {name}"


def test_numerics_know_no_graph() -> None:
    allowed = ("qcompiler.numerics", "qcompiler.errors")
    for path, tree in _sources("qcompiler/numerics"):
        for name in _imports(tree):
            assert not _within(name, "torch.fx"), f"{path} imports {name}"
            if _within(name, "qcompiler"):
                assert any(_within(name, a) for a in allowed), f"{path} imports {name}"


def test_the_lower_layers_do_not_import_the_upper_ones() -> None:
    upper = ("qcompiler.api", "qcompiler.program", "qcompiler.cli", "qcompiler.demo")
    for path, tree in _sources("qcompiler", "passes", "backends"):
        top = path.startswith("qcompiler/") and path.count("/") == 1
        for name in _imports(tree, runtime_only=True):
            if not top:
                assert not any(_within(name, u) for u in upper), f"{path} imports {name}"


def test_private_torch_imports_are_in_one_file() -> None:
    for path, tree in _sources("qcompiler", "passes", "backends"):
        if path == "qcompiler/torch_compat.py":
            continue
        for name in _imports(tree):
            private = _within(name, "torch") and any(p.startswith("_") for p in name.split("."))
            assert not private, f"{path} imports {name}"


def test_only_the_annotations_read_node_meta() -> None:
    for path, tree in _sources("qcompiler", "passes", "backends"):
        if path == "qcompiler/ir/annotations.py":
            continue
        uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "meta"]
        # Capture reads what torch.export has put there; nothing else of torch's is read.
        assert not uses or path == "qcompiler/capture.py", f"{path}:{uses[0].lineno}"


def test_imports_are_at_most_four_names_deep() -> None:
    for path, tree in _sources("qcompiler", "passes", "backends"):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and _within(node.module, "qcompiler")
            ):
                assert node.module.count(".") <= 3, f"{path} imports {node.module}"


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for top in ("qcompiler", "passes", "backends", "tests", "benchmarks", "docs")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".c", ".h", ".jinja")
        and not path.is_relative_to(ROOT / "qcompiler/passes")
        and not path.is_relative_to(ROOT / "qcompiler/backends")
    }
    too_long = {path: n for path, n in lengths.items() if n > LINES and path not in LONG_FILES}
    assert too_long == {}
    assert [path for path in LONG_FILES if lengths.get(path, 0) <= LINES] == []


def test_no_line_of_c_is_too_long() -> None:
    """Of Python, ruff tells."""
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for top in ("backends", "tests", "benchmarks")
        for path in (ROOT / top).rglob("*.[ch]")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > COLUMNS
    ]
    assert long == []


def _pass_files() -> list[Path]:
    return [
        path
        for folder in PASS_FOLDERS
        for path in sorted((ROOT / "passes" / folder).glob("*.py"))
        if path.stem != "__init__"
    ]


def _pass_names(path: Path) -> list[str]:
    """Returns the text names of the passes that a file defines: classes with ``name = "..."``."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if (
                    isinstance(statement, ast.AnnAssign)
                    and isinstance(statement.target, ast.Name)
                    and statement.target.id == "name"
                    and isinstance(statement.value, ast.Constant)
                    and any("Pass" in ast.dump(base) for base in node.bases)
                ):
                    names.append(str(statement.value.value))
    return names


def test_each_file_holds_one_pass_named_like_it() -> None:
    for path in _pass_files():
        names = _pass_names(path)
        if not path.stem.startswith("_"):
            assert names == [path.stem.replace("_", "-")], path
        else:
            assert names == [], f"{path}: a helper module holds no pass"


def test_every_pass_is_registered() -> None:
    from qcompiler import registry

    public = [path for path in _pass_files() if not path.stem.startswith("_")]
    registered = [
        n
        for n in registry.names(registry.PASSES)
        if registry.owner(registry.PASSES, n) == "qcompiler"
    ]
    assert registered == sorted(path.stem.replace("_", "-") for path in public)


_WATCHED = """
import os, sys, threading
import torch, numpy, sympy, networkx, scipy, jinja2, safetensors, rich, typer
import torch.export, qcompiler.torch_compat  # modules of torch's, which do as they like
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append(f"opens {args[0]} for writing")
    elif event in ("os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "socket.connect"):
        seen.append(f"{event} {args}")
sys.dont_write_bytecode = True
before = (sys.getrecursionlimit(), torch.get_num_threads(), torch.get_rng_state().sum().item(),
          torch.get_default_dtype(), dict(os.environ), threading.active_count())
sys.addaudithook(hook)
for module in sys.argv[1:]:
    __import__(module)
after = (sys.getrecursionlimit(), torch.get_num_threads(), torch.get_rng_state().sum().item(),
         torch.get_default_dtype(), dict(os.environ), threading.active_count())
assert before == after, (before, after)
assert not seen, seen
"""


@pytest.mark.e2e
def test_no_module_has_side_effects_when_imported() -> None:
    modules = []
    for path, _ in _sources("qcompiler"):
        modules.append(path.removesuffix(".py").replace("/", "."))
    for path, _ in _sources("passes", "backends"):
        modules.append(f"qcompiler.{path.removesuffix('.py').replace('/', '.')}")
    names = [m.removesuffix(".__init__") for m in modules if not m.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
