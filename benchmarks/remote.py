"""The parent's side of a worker process: start it, ask it for slots, end it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.artifacts import ROOT

_START_SECONDS = 1800.0  # compiling and quantizing included
_SLOT_SECONDS = 300.0
# Threads of the contender before wait for work by spinning a while; they sleep by then.
_PAUSE_SECONDS = 0.05


class Failure(Exception):
    """A contender that could not be loaded or timed, with the reason."""


class Worker:
    """A process that has loaded one contender for one model and runs slots on request."""

    def __init__(
        self,
        python: str,
        cache: Path,
        model: str,
        contender: str,
        threads: int,
        batches: Sequence[int],
    ) -> None:
        arguments = [str(cache), model, contender, str(threads), *map(str, batches)]
        self._command = [python, "-m", "benchmarks.worker", *arguments]
        self._threads = threads
        self._cache = cache
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    def start(self) -> dict[int, dict[str, Any]]:
        """Starts the process and returns, by batch, what it says about the loaded model.

        Raises:
            Failure: it could not load the model.
        """
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self._threads),
            "TORCHINDUCTOR_CACHE_DIR": str(self._cache / "inductor"),
        }
        try:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            message = f"{self._command[0]} does not start: {error.strerror}"
            raise Failure(message) from None
        reply = self._reply(_START_SECONDS)
        return {
            int(batch): {**facts, "versions": reply["versions"]}
            for batch, facts in reply["loaded"].items()
        }

    def slot(self, batch: int, milliseconds: float) -> list[float]:
        """Returns the seconds of each timed call of a slot.

        Raises:
            Failure: a call raised, the process died, or it took too long.
        """
        process = self._running()
        time.sleep(_PAUSE_SECONDS)
        request = json.dumps({"batch": batch, "milliseconds": milliseconds})
        assert process.stdin is not None
        try:
            process.stdin.write(request.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        seconds: list[float] = self._reply(_SLOT_SECONDS)["seconds"]
        return seconds

    def stop(self) -> None:
        """Ends the process, which may hang, so that it disturbs no other one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._errors.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "the worker was not started"
            raise RuntimeError(message)
        return self._process

    def _reply(self, timeout: float) -> dict[str, Any]:
        pipe = self._running().stdout
        assert pipe is not None
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, end - time.monotonic())):
                    message = f"no answer within {timeout:.0f} s"
                    raise Failure(message)
                part = os.read(pipe.fileno(), 1 << 16)
                if not part:
                    raise self._died()
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Failure(reply["error"])
        return reply

    def _died(self) -> Failure:
        status = self._running().wait()
        self._errors.seek(0)
        last = self._errors.read().strip().rpartition("\n")[2]
        return Failure(f"the process ended with status {status}: {last}")
