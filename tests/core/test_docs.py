"""The documentation is true: its Python runs, links lead to files, generated pages are current."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from qcompiler.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXECUTED = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]

# ```python blocks, and hidden ones: an HTML comment that starts with the word setup or check.
_CODE = re.compile(r"^(?:```python|<!-- (?:setup|check))\n(.*?)^(?:```|-->)$", re.M | re.S)


def _code_at_its_lines(text: str) -> str:
    """Returns a page's code with blank lines for the prose: errors name the page's lines."""
    lines = [""] * (text.count("\n") + 1)
    for block in _CODE.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for offset, line in enumerate(block[1].splitlines()):
            lines[first + offset] = line
    return "\n".join(lines) + "\n"


@pytest.mark.e2e
@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"code_of_{page.stem.lower()}"
    script = tmp_path / f"{name}.py"
    script.write_text(_code_at_its_lines(page.read_text(encoding="utf-8")), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    spec.loader.exec_module(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_commands_in_the_documentation_exist() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined]  # a group of commands
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced = "".join(re.findall(r"^```\w*$(.*?)^```$", text, re.M | re.S))
        commands = re.findall(r"^qcompiler ([a-z-]+)", fenced, re.M)
        commands += re.findall(r"`qcompiler ([a-z-]+)", text)
        assert [command for command in commands if command not in known] == [], page


def test_every_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").as_posix()
        listed = name in index or f"{name.partition('/')[0]}/)" in index
        assert listed or name == "index.md", name


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
