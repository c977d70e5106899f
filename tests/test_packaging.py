"""What style the package has for tools: folders, links, guards, version, package data."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import qcompiler

ROOT = Path(__file__).parents[1]
LINKED = ("passes", "backends")


def _setuptools() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "setuptools"
    ]
    return table


def _package_folders() -> dict[str, Path]:
    """Returns dotted name -> folder of every package on disk, without following the links."""
    found = {}
    for name, folder in _setuptools()["package-dir"].items():
        top = ROOT / folder
        for init in top.rglob("__init__.py"):
            parts = init.parent.relative_to(top).parts
            if not (name == "qcompiler" and parts[:1] and parts[0] in LINKED):
                found[".".join([name, *parts])] = init.parent
    return found


def test_every_package_folder_is_listed() -> None:
    assert sorted(_package_folders()) == sorted(_setuptools()["packages"])


def test_every_python_file_is_in_a_package() -> None:
    folders = set(_package_folders().values())
    for top in ("qcompiler", *LINKED):
        stray = [p for p in (ROOT / top).rglob("*.py") if p.parent not in folders]
        assert [
            p
            for p in stray
            if not p.is_relative_to(ROOT / "qcompiler" / "passes")
            and not p.is_relative_to(ROOT / "qcompiler" / "backends")
        ] == []


def test_every_other_file_is_package_data() -> None:
    patterns = [PurePosixPath(p).name for p in _setuptools()["package-data"]["*"]]
    for folder in (ROOT / top for top in ("qcompiler", *LINKED)):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
                assert any(PurePosixPath(path.name).match(p) for p in patterns), path


@pytest.mark.parametrize("folder", LINKED)
def test_the_links_of_the_checkout_point_at_the_top_level_folders(folder: str) -> None:
    link = ROOT / "qcompiler" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert link.resolve() == ROOT / folder


@pytest.mark.parametrize("folder", LINKED)
def test_a_top_level_import_is_refused(folder: str) -> None:
    with pytest.raises(ImportError, match=f"import 'qcompiler.{folder}', not '{folder}'"):
        importlib.import_module(folder)


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "docs/changelog.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == qcompiler.__version__
    try:
        installed = importlib.metadata.version("qcompiler")
    except importlib.metadata.PackageNotFoundError:
        return  # run from the tree through PYTHONPATH
    assert installed == qcompiler.__version__


def test_the_public_api_is_the_one_in_the_manifest() -> None:
    manifest = (ROOT / "tests/public_api.txt").read_text().split()
    assert sorted(qcompiler.__all__) == sorted(manifest)
    assert len(manifest) < 20
    for name in manifest:
        assert getattr(qcompiler, name) is not None
    assert dir(qcompiler) == sorted(manifest)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compyle'"):
        qcompiler.compyle  # noqa: B018  # the access is what is tested


def test_import_loads_no_heavy_module() -> None:
    heavy = ("torch", "sympy", "networkx", "scipy", "jinja2", "typer", "rich")
    code = f"import sys, qcompiler; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
