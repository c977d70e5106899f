"""State of a measurement on disk: one file for each group, so that an interruption loses none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from qcompiler.errors import QCompilerError
from qcompiler.passes.analysis._probe import GroupError
from qcompiler.runtime.caches import cache_folder
from qcompiler.runtime.files import make_folder, write_whole

# The value of the option ``state`` that means the user's cache folder.
CACHE = "cache"
_DIGEST = hashlib.sha256().digest_size


class State:
    """The errors of groups under a key, in safetensors files of a folder; None keeps nothing.

    A file starts with the sha256 of the rest: a damaged one is measured again. Where the user's
    cache folder cannot be written only time is lost; a folder that the user named must be writable.

    Raises:
        QCompilerError: QC0604 when the folder that the user named cannot be written.
    """

    def __init__(self, state: str | None, key: str) -> None:
        base = None if state is None else Path(state)
        self._is_cache = state == CACHE
        if self._is_cache:
            base = cache_folder("sensitivities")
        self._folder = None if base is None else base / key[:32]
        if self._folder is not None:
            try:
                make_folder(self._folder)
            except QCompilerError:
                if not self._is_cache:
                    raise
                self._folder = None

    def read(self, place: int) -> GroupError | None:
        """Returns the errors of a group; None when they are not there or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        if self._folder is None:
            return None
        try:
            held = self._path(place).read_bytes()
            content = held[_DIGEST:]
            if hashlib.sha256(content).digest() != held[:_DIGEST]:
                return None
            tensors = load(content)
            return GroupError(tuple(tensors["errors"].tolist()), tensors.get("effects"))
        except (OSError, SafetensorError, KeyError):
            return None

    def write(self, place: int, found: GroupError) -> None:
        """Keeps the errors of a group."""
        from safetensors.torch import save

        if self._folder is None:
            return
        tensors = {"errors": torch.tensor(found.errors, dtype=torch.float64)}
        if found.effects is not None:
            tensors["effects"] = found.effects.contiguous()
        content = save(tensors)
        try:
            write_whole(self._path(place), hashlib.sha256(content).digest() + content)
        except QCompilerError:
            if not self._is_cache:
                raise

    def _path(self, place: int) -> Path:
        assert self._folder is not None
        return self._folder / f"group{place:04d}.errors"
