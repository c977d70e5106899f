"""An artifact does not depend on torch's number of threads, and compiling leaves that as it was."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import qcompiler


def _compiled(threads: int, path: Path) -> bytes:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU6(), nn.Conv2d(32, 64, 3))
    model = nn.Sequential(*layers).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        program = qcompiler.compile(model, [torch.randn(16, 3, 64, 64)], target="reference")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    program.save(path)
    return path.read_bytes()


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    one = _compiled(1, tmp_path / "one.qcp")
    assert one == _compiled(4, tmp_path / "four.qcp")
