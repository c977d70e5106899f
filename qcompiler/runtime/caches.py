"""Where files are kept between processes that only save time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """Returns the folder of one kind of cache; None where QCOMPILER_CACHE is the empty string.

    QCOMPILER_CACHE names the folder of all caches; otherwise it is ``qcompiler`` in the user's
    cache folder (https://specifications.freedesktop.org/basedir-spec/).
    """
    chosen = os.environ.get("QCOMPILER_CACHE")
    if chosen is not None:
        return Path(chosen) / kind if chosen else None
    users = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    if not os.path.isabs(users) and not os.path.isabs(home):
        return None
    base = Path(users) if os.path.isabs(users) else Path(home) / ".cache"
    return base / "qcompiler" / kind
