"""Lines of the user's model, found in the stack traces that torch keeps."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import NamedTuple

import torch

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+(?:\n[ \t]+([^\n]+))?')
_TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parents[1])
_STANDARD = sysconfig.get_path("stdlib")
_INSTALLED = ("site-packages", "dist-packages")


class Frame(NamedTuple):
    """One frame of a stack trace."""

    file: str
    line: int
    code: str


def frames_of(text: str) -> list[Frame]:
    """Returns the frames that the text of a stack trace lists, the innermost last."""
    return [Frame(file, int(line), code) for file, line, code in _FRAME.findall(text)]


def traceback_frames(trace: TracebackType | None) -> list[Frame]:
    """Returns the frames of an exception's traceback."""
    return [Frame(f.filename, f.lineno or 0, f.line or "") for f in extract_tb(trace)]


def user_line(frames: Sequence[Frame]) -> str | None:
    """Returns ``file.py:line (code)`` of the innermost frame of the user's code, None without one.

    The path starts below the import path that holds the file, so that it names no machine.
    """
    for file, line, code in reversed(frames):
        if not (file.startswith((_TORCH, "torch/", _OWN, "<")) or _is_standard(file)):
            place = f"{_below_import_path(file)}:{line}"
            return f"{place} ({code.strip()})" if code.strip() else place
    return None


def _is_standard(file: str) -> bool:
    below = file.removeprefix(_STANDARD)
    return below != file and below.split("/")[1] not in _INSTALLED


def _below_import_path(file: str) -> str:
    roots = [e.rstrip("/") + "/" for e in sys.path if e and file.startswith(e.rstrip("/") + "/")]
    return file[len(max(roots, key=len)) :] if roots else file
