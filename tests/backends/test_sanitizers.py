"""What ``make sanitize`` would catch: planted errors end a process that the sanitizers watch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qcompiler.backends.cpu.isa import LEVELS
from qcompiler.backends.native import toolchain
from tests.backends import sanitize

SOURCES = {
    "qc.h": b"#include <stdint.h>\nint qc_planted(int what, uint8_t *bytes);\n",
    "planted.c": b"""#include "qc.h"
static int load(const int *p) { return *p; }

int qc_planted(int what, uint8_t *bytes)
{
    float big = 3e9f;
    switch (what) {
    case 0: return bytes[1063];
    case 1: return bytes[1064];
    case 2: return bytes[1000] = 1;
    case 3: return 1 << bytes[0];
    case 4: return load((const int *)(bytes + 1));
    case 5: return (int)(big + bytes[0]);
    default: return 2147483647 + bytes[0] < 0;
    }
}
""",
    "program.c": b"""__attribute__((visibility("default"))) int run(int what, uint8_t *bytes)
{
    return qc_planted(what, bytes);
}
""",
}
# The tensor of 1000 bytes has its slack after it, except where it is a result.
CALL = """
import ctypes, sys
what = int(sys.argv[2])
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
bytes = malloc(ctypes.c_size_t(1000 if what == 2 else 1064))
ctypes.memset(ctypes.c_void_p(bytes), 40, 1000)
ctypes.CDLL(sys.argv[1]).run(what, ctypes.c_void_p(bytes))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with errors, watched."""
    path = tmp_path_factory.mktemp("watched") / "program.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", "gcc")
        patch.setenv("QCOMPILER_CFLAGS", " ".join(sanitize.FLAGS))
        path.write_bytes(toolchain.build(SOURCES, LEVELS[:1]))
    return path


@pytest.mark.parametrize(
    ("what", "report"),
    [
        (0, None),
        (1, "heap-buffer-overflow"),
        (2, "heap-buffer-overflow"),
        (3, "shift exponent 40 is too large"),
        (4, "misaligned address"),
        (5, "outside the range of representable values"),
        (6, None),
    ],
)
def test_planted_errors_are_caught_and_what_is_allowed_is_not(
    library: Path, what: int, report: str | None
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(library), str(what)],
        env=sanitize.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (report is None), done.stderr
    assert report is None or report in done.stderr
