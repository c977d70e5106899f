"""Object code of the kernel library, kept in the user's cache folder between processes."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from qcompiler.runtime.caches import cache_folder

# Objects of some kernel libraries: all levels of one take about a hundred.
MAX_FILES = 1024
_DIGEST = hashlib.sha256


def folder() -> Path | None:
    """Returns the folder of the objects; None where QCOMPILER_CACHE is set to the empty string."""
    return cache_folder("objects")


def read(key: str) -> bytes | None:
    """Returns the object of a key, None when it is not there or damaged."""
    place = folder()
    if place is None:
        return None
    try:
        held = (place / key).read_bytes()
    except OSError:
        return None
    size = _DIGEST().digest_size
    content = held[size:]
    if _DIGEST(content).digest() != held[:size]:
        return None
    with suppress(OSError):  # the least recently used ones go first
        os.utime(place / key)
    return content


def write(key: str, content: bytes) -> None:
    """Keeps an object; a folder that cannot be written keeps none, and only time is lost."""
    place = folder()
    if place is None:
        return
    unfinished = place / f".{key[:16]}.{uuid4().hex}.tmp"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(_DIGEST(content).digest() + content)
            os.replace(unfinished, place / key)
        finally:
            unfinished.unlink(missing_ok=True)
        _prune(place)
    except OSError:
        return


def _prune(place: Path) -> None:
    """Drops the quarter that was not read for longest when there are too many."""
    with os.scandir(place) as entries:
        kept = [entry for entry in entries if entry.is_file()]
    if len(kept) > MAX_FILES:
        kept.sort(key=lambda entry: entry.stat().st_mtime)
        for entry in kept[: MAX_FILES // 4]:
            with suppress(OSError):
                os.unlink(entry.path)
