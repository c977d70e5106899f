"""Whole programs in Triton's interpreter: results, devices of inputs, layouts, saving, reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qcompiler
from qcompiler.backends.cuda.replay import _readable
from tests.assets import digits
from tests.backends.cuda import networks
from tests.backends.cuda.interpreter import interpreted, verified


def _digits() -> list[int]:
    program, images = networks.mnist("cuda-sm80"), digits().images
    batches = (1, 3)
    return [n for n in batches if torch.equal(program(images[:n]), program.reference(images[:n]))]


def test_the_digit_network_equals_the_reference() -> None:
    assert interpreted(_digits) == [1, 3]


def test_a_block_of_efficientnet_verifies() -> None:
    assert interpreted(verified, networks.inverted, "cuda-sm90").startswith("equal:")


def _calls() -> list[str]:
    program = networks.inverted("cuda-sm90")
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    want = program.reference(x)
    strided = torch.empty(3, 16, 16, 6).permute(0, 3, 1, 2)[:, ::2].copy_(x)
    with torch.inference_mode():
        inside = program(x)
    alternatives = {
        "contiguous": program(x),
        "channels last": program(x.to(memory_format=torch.channels_last)),
        "strided": program(strided),
        "requires grad": program(x.clone().requires_grad_()),
        "inference mode": inside,
        "after inference mode": program(x),
        "by name": program(**{program.input_names[0]: x}),
        "empty": torch.cat([program(x[:0]), want]),
    }
    return [name for name, have in alternatives.items() if not torch.equal(want, have)]


def test_every_form_of_input_gives_the_same() -> None:
    assert interpreted(_calls) == []


def test_codes_of_callers_lie_where_products_may_load_them() -> None:
    flat = torch.arange(33, dtype=torch.int8)
    for given, copied in ((flat[:32], False), (flat[1:], True)):
        read = _readable(given, strided=False)
        assert torch.equal(read, given)
        assert read.data_ptr() % 16 == 0
        assert (read.data_ptr() != given.data_ptr()) == copied


def test_images_in_channels_last_are_not_copied() -> None:
    x = torch.randn(2, 3, 4, 5)
    for given in (x, x.to(memory_format=torch.channels_last), x[:, 1:]):
        read = _readable(given, strided=True)
        assert read.data_ptr() == given.data_ptr()
        assert read.stride() == given.stride()


class Branches(nn.Module):
    """Several results, an input among them, and a value that is a result and read again."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the input, a value, and what is computed of it."""
        y = torch.relu(x)
        return x, y, (y + x).flatten(1), y


def _branches() -> bool:
    program = qcompiler.compile(Branches(), [torch.randn(4, 3, 5, 6)], target="cuda-sm80")
    x = torch.randn(2, 3, 5, 6)
    pairs = zip(program(x), program.reference(x), strict=True)
    return all(torch.equal(have, want) for have, want in pairs)


def test_results_that_are_inputs_or_other_results() -> None:
    assert interpreted(_branches)


class Island(nn.Module):
    """An operator without an integer form between two that have one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns b(cumsum(a(x)))."""
        return self.b(torch.cumsum(self.a(x), 1) * 0.1)  # type: ignore[no-any-return]  # nn.Module returns Any


def _island() -> tuple[bool, bool]:
    data = [torch.randn(4, 3, 6, 6)]
    program = qcompiler.compile(Island(), data, target="cuda-sm80", strict=False)
    x = torch.randn(2, 3, 6, 6)
    return torch.equal(program(x), program.reference(x)), "torch" in str(program.report())


def test_float_islands_run_between_kernels() -> None:
    assert interpreted(_island) == (True, True)


def test_compiling_saving_and_reporting_need_no_gpu(tmp_path: Path) -> None:
    program = networks.mnist("cuda-sm86")
    program.save(tmp_path / "a.qcp")
    again = qcompiler.load(tmp_path / "a.qcp")
    again.save(tmp_path / "b.qcp")
    assert (tmp_path / "a.qcp").read_bytes() == (tmp_path / "b.qcp").read_bytes()
    images = digits().images[:5]
    assert torch.equal(program.reference(images), again.reference(images))
    text = str(again.report())
    assert "conv2d_s8{" in text
    assert "cuda: kernels for sm_86" in text


@pytest.mark.parametrize("target", ["cuda-sm80", "cuda-sm86", "cuda-sm89", "cuda-sm90"])
def test_two_compilations_write_the_same(tmp_path: Path, target: str) -> None:
    for name in ("a", "b"):
        networks.inverted(target).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
