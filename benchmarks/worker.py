"""One contender in a process of its own: loads a model, then runs slots on request.

It reads a line of JSON per request from its standard input and answers with one: first, unasked,
what it has loaded; then for ``{"batch": 1, "milliseconds": 200}`` the seconds of each timed call.
It ends with its input.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.artifacts import Array, Store
from benchmarks.contenders import CONTENDERS, Session

_LEAST_CALLS = 2


def slot(session: Session, milliseconds: float) -> list[float]:
    """Returns the seconds of calls for that long, at least two, after one that is not timed."""
    clock = time.perf_counter
    session.run()
    seconds: list[float] = []
    end = clock() + milliseconds / 1e3
    while len(seconds) < _LEAST_CALLS or clock() < end:
        start = clock()
        session.run()
        seconds.append(clock() - start)
    return seconds


def signal_to_noise(expected: Array, parts: Sequence[Any]) -> float:
    """Returns the power of the expected logits over that of their error, in dB."""
    actual = np.concatenate([np.asarray(part) for part in parts]).astype(np.float64)
    noise = float(np.square(actual - expected).sum())
    power = float(np.square(expected.astype(np.float64)).sum())
    return 10 * math.log10(power / noise) if noise else math.inf


def main() -> None:
    """Takes the cache, the model, the contender, the threads and the batches as arguments."""
    cache, model, name, threads, *batches = sys.argv[1:]
    # What libraries print goes to the standard error; the first descriptor is the pipe's alone.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    try:
        store, contender = Store(Path(cache), model), CONTENDERS[name]
        for artifact in contender.artifacts:
            store.folder(artifact)
        images, logits = store.array("images"), store.array("logits")
        sessions: dict[int, Session] = {}
        loaded: dict[int, dict[str, Any]] = {}
        for batch in map(int, batches):
            session = contender.load(store, np.ascontiguousarray(images[:batch]), int(threads))
            close = signal_to_noise(logits[:batch], session.run())
            sessions[batch] = session
            loaded[batch] = {"sqnr": close, "detail": session.detail}
        answer({"versions": contender.versions(), "loaded": loaded})
        gc.disable()
        for line in sys.stdin:
            request = json.loads(line)
            answer({"seconds": slot(sessions[request["batch"]], request["milliseconds"])})
            gc.collect()
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
