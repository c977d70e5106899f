"""A pass and a target of an installed package of somebody else work like the built-in ones."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler import registry
from qcompiler.capture import capture
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Verify
from qcompiler.passmgr.pipeline import Pipeline

PLUGIN = Path(__file__).parents[1] / "plugin"


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Installs the plug-in into a folder of its own where the environment does not have it."""
    try:
        importlib.metadata.distribution("qcompiler-plugin")
    except importlib.metadata.PackageNotFoundError:
        folder = tmp_path_factory.mktemp("site")
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder)]
        copy = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("source") / "plugin")
        subprocess.run([*pip, str(copy)], check=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(folder))
            registry.refresh()
            yield
    else:
        yield
    registry.refresh()


class Scaled(nn.Module):
    """A convolution whose result is multiplied by ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("gain", torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, 3, H, W] to [N, 4, H - 2, W - 2]."""
        return torch.sigmoid(self.conv(x) * self.gain)


def test_both_are_listed_with_their_owner() -> None:
    assert "drop-unit-multiplications" in registry.names(registry.PASSES)
    assert registry.owner(registry.PASSES, "drop-unit-multiplications") == "qcompiler-plugin"
    assert registry.owner(registry.TARGETS, "recorder") == "qcompiler-plugin"


def test_the_pass_runs_by_its_name_in_a_pipeline() -> None:
    images = torch.randn(2, 3, 8, 8)
    model = Scaled().eval()
    graph = capture(model, (images,))
    text = "normalize-ops,drop-unit-multiplications{tolerance=0.001}"
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text
    records = pipeline.run(graph, PassContext(), [Verify()])
    assert [record.changed for record in records] == [True, True]
    assert not any("mul" in str(node.target) for node in graph.calls)
    torch.testing.assert_close(graph.run(images)[0], model(images))


def test_a_program_for_the_target_equals_one_for_the_reference(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = Scaled().eval(), [torch.randn(4, 3, 8, 8)]
    images = torch.randn(2, 3, 8, 8)
    expected = qcompiler.compile(model, data, target="reference")(images)
    program = qcompiler.compile(model, data, target="recorder")
    assert torch.equal(program(images), expected)
    assert program.verify()
    program.save(tmp_path / "plugin.qcp")
    assert torch.equal(qcompiler.load(tmp_path / "plugin.qcp")(images), expected)
