"""Cycles of a core for blocks of code: llvm-mca's prediction, block by block.

Each block is taken to repeat: what it costs then is its share of a long run of itself, with the
dependences from one time to the next. That is what an inner loop does, and those execute nearly
everything. Loads hit the first cache, jumps are foreseen.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from qcompiler.backends.native.toolchain import words_of
from qcompiler.errors import QCompilerError

# The environment variable that names llvm-mca; llvm-mc of the same release stands beside it.
TOOL = "QCOMPILER_LLVM_MCA"
# Releases before have no schedules of Neoverse N1 and V1.
_OLDEST, _NEWEST = 17, 24
_TRIPLE, _EVERY = "aarch64", "-mattr=+all"
_ITERATIONS = 100
# The blocks that execute this share of an operator's instructions are predicted; the rest costs as
# much for each instruction as they do.
_SHARE = 0.999
# So many blocks at once: one that llvm-mca refuses is found by halves.
_BATCH = 256


@dataclass(frozen=True)
class Analyzer:
    """The programs of LLVM: llvm-mca predicts, llvm-mc reads the bytes of instructions."""

    predict: str
    read: str
    release: int


@dataclass(frozen=True)
class Prediction:
    """Predicted cycles of each operator, and by what model; nan where it knows nothing of one."""

    cycles: Mapping[str, float]
    note: str


def find_analyzer() -> Analyzer:
    """Returns the analyzer: that of QCOMPILER_LLVM_MCA, or the newest one found.

    Raises:
        QCompilerError: QC0828 where there is none, or too old a one.
    """
    return _probe(words_of(TOOL, "QC0828"), os.environ.get("PATH", ""))


@lru_cache(maxsize=8)
def _probe(chosen: tuple[str, ...], path: str) -> Analyzer:
    names = chosen[:1] or ("llvm-mca", *(f"llvm-mca-{n}" for n in range(_NEWEST, _OLDEST - 1, -1)))
    found = []
    for name in names:
        place = shutil.which(name, path=path)
        if place is None:
            continue
        reader = Path(place).with_name(Path(place).name.replace("llvm-mca", "llvm-mc"))
        said = subprocess.run([place, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"version (\d+)", said)
        release = int(version.group(1)) if version else 0
        if release >= _OLDEST and reader.name != Path(place).name and reader.exists():
            return Analyzer(place, str(reader), release)
        found.append(f"{name} is of release {release}")
    raise QCompilerError(
        "QC0828",
        f"no llvm-mca of release {_OLDEST} or later with llvm-mc beside it: "
        + (", ".join(found) or "none is there"),
        remedy=f"install one (apt install llvm-19), or name it with {TOOL}",
    )


def predict(blocks: Mapping[str, Mapping[bytes, int]], core: str) -> Prediction:
    """Returns what the blocks that each operator executes cost.

    Args:
        blocks: how often each operator executes each block.
        core: a processor as llvm-mca names it.

    Raises:
        QCompilerError: QC0828 without llvm-mca.
    """
    analyzer = find_analyzer()
    hottest = {node: _hottest(own) for node, own in blocks.items()}
    known = _cycles(sorted({block for kept in hottest.values() for block in kept}), core, analyzer)
    cycles: dict[str, float] = {}
    predicted = executed = 0
    for node, own in blocks.items():
        hot = {block: own[block] for block in hottest[node] if block in known}
        some, every = _instructions(hot), _instructions(own)
        spent = sum(known[block] * times for block, times in hot.items())
        cycles[node] = spent * every / some if some else math.nan
        predicted, executed = predicted + some, executed + every
    note = (
        f"cycles are predicted by llvm-mca {analyzer.release} -mcpu={core} from the blocks of"
        f" {predicted / max(executed, 1):.2%} of the instructions, as if no load and no jump missed"
    )
    return Prediction(cycles, note)


def cycles_of_texts(texts: Sequence[str], core: str, analyzer: Analyzer) -> list[float] | None:
    """Returns the cycles of each block of assembly, None when llvm-mca refuses one of them."""
    marked = "".join(
        f"# LLVM-MCA-BEGIN {i}\n{text}\n# LLVM-MCA-END\n" for i, text in enumerate(texts)
    )
    command = [
        *(
            analyzer.predict,
            f"-mtriple={_TRIPLE}",
            _EVERY,
            f"-mcpu={core}",
            f"-iterations={_ITERATIONS}",
        ),
        *("--instruction-info=0", "--resource-pressure=0"),
    ]
    done = subprocess.run(command, input=marked, capture_output=True, text=True)
    totals = re.findall(r"^Total Cycles:\s+(\d+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or len(totals) != len(texts):
        return None
    return [int(total) / _ITERATIONS for total in totals]


def _instructions(blocks: Mapping[bytes, int]) -> int:
    return sum(len(block) // 4 * times for block, times in blocks.items())


def _hottest(blocks: Mapping[bytes, int]) -> list[bytes]:
    """Returns the blocks that execute most, until the rest is little."""
    ordered = sorted(blocks, key=lambda block: (-len(block) * blocks[block], block))
    left = (1 - _SHARE) * _instructions(blocks)
    while ordered and (least := len(ordered[-1]) // 4 * blocks[ordered[-1]]) <= left:
        left -= least
        ordered.pop()
    return ordered


# Cycles of blocks that were asked for before; nan for those that llvm-mca refuses.
_KNOWN: dict[tuple[bytes, str, Analyzer], float] = {}


def _cycles(blocks: Sequence[bytes], core: str, analyzer: Analyzer) -> dict[bytes, float]:
    """Returns the cycles of each block that llvm-mca takes."""
    new = [block for block in blocks if (block, core, analyzer) not in _KNOWN]
    texts = _assembly(new, analyzer)
    readable = [block for block in new if texts[block] is not None]
    for start in range(0, len(readable), _BATCH):
        batch = readable[start : start + _BATCH]
        found = _halved([texts[block] or "" for block in batch], core, analyzer)
        _KNOWN.update({(b, core, analyzer): c for b, c in zip(batch, found, strict=True)})
    for block in new:
        _KNOWN.setdefault((block, core, analyzer), math.nan)
    known = {block: _KNOWN[block, core, analyzer] for block in blocks}
    return {block: cycles for block, cycles in known.items() if not math.isnan(cycles)}


def _halved(texts: Sequence[str], core: str, analyzer: Analyzer) -> list[float]:
    found = cycles_of_texts(texts, core, analyzer)
    if found is not None:
        return found
    if len(texts) == 1:
        return [math.nan]
    middle = len(texts) // 2
    halves = (texts[:middle], texts[middle:])
    return [cycles for half in halves for cycles in _halved(half, core, analyzer)]


def _assembly(blocks: Sequence[bytes], analyzer: Analyzer) -> dict[bytes, str | None]:
    """Returns the text of each block, None where llvm-mc cannot read an instruction."""
    words = {block[i : i + 4] for block in blocks for i in range(0, len(block), 4)}
    lines = "\n".join(" ".join(f"0x{byte:02x}" for byte in word) for word in sorted({_NOP, *words}))
    command = [analyzer.read, f"-triple={_TRIPLE}", _EVERY, "--disassemble", "--show-encoding"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    read: dict[bytes, str] = {}
    for line in done.stdout.splitlines():
        text, _, encoding = line.partition("// encoding: [")
        if encoding:
            word = bytes(int(byte, 16) for byte in encoding.rstrip("]").split(","))
            read[word] = _CALLS.sub(lambda call: _JUMPS[call.group(1)], text.strip())
    if _NOP not in read:
        raise QCompilerError(
            "QC0828",
            f"{analyzer.read} reads no instruction: {done.stderr.strip()[:200]}",
            remedy=f"name another llvm-mca with {TOOL}",
        )
    texts: dict[bytes, str | None] = {}
    for block in blocks:
        parts = [block[i : i + 4] for i in range(0, len(block), 4)]
        whole = all(part in read for part in parts)
        texts[block] = "\n".join(read[part] for part in parts) if whole else None
    return texts


# Every llvm-mc for ARM reads it: one that does not takes no such command.
_NOP = bytes.fromhex("1f2003d5")
# Calls are jumps here: llvm-mca takes their latency for that of what they call, 100 cycles.
_CALLS = re.compile(r"^(blr?|ret)\b(?=\s|$)")
_JUMPS = {"bl": "b", "blr": "br", "ret": "br x30"}
