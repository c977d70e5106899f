"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from qcompiler.errors import QCompilerError


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file that takes its place, or that of an older one, only when it is complete.

    Raises:
        QCompilerError: QC0604 when it cannot be written; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{target.name[:100]}.{uuid4().hex}.tmp")
    try:
        try:
            with open(unfinished, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise QCompilerError(
            "QC0604",
            f"{path} cannot be written: {error.strerror or error}",
            remedy="free disk space, or give a path in a folder that exists and is writable",
        ) from error


def make_folder(path: Path) -> None:
    """Makes a folder for files, and those above it.

    Raises:
        QCompilerError: QC0604 when it cannot be made or is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(path, os.W_OK) else "it is not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        raise QCompilerError(
            "QC0604",
            f"the folder {str(path)!r} cannot be used: {reason}",
            remedy="give a folder that can be made and written",
        )


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable where the system lets a folder be synchronized."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
