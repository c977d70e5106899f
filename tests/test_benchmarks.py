"""The comparison with other systems: its ratios, and that no failure is hidden."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.compare import Entries, Entry, Plan, parse, table
from benchmarks.models import MODELS
from benchmarks.remote import Failure, Worker
from benchmarks.worker import signal_to_noise


def _plan(*contenders: str) -> Plan:
    return Plan(["resnet18"], contenders, [1], [1], 1, 1.0, Path(), sys.executable)


def test_every_system_takes_part_unless_fewer_are_asked_for() -> None:
    peers = {"onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8"}
    assert set(parse([]).contenders) == {"qcompiler", "torch", "torch-compile"} | peers
    assert parse(["--contenders", "torch"]).contenders == ["torch"]


def test_ratios_are_to_the_fastest_peers_and_never_to_ourselves() -> None:
    plan = _plan("qcompiler", "openvino", "openvino-int8", "onnxruntime-int8")
    milliseconds = {"qcompiler": 2, "openvino": 12, "openvino-int8": 4, "onnxruntime-int8": 5}
    entries: Entries = {
        (1, 1, "resnet18", name): Entry(seconds=[value / 1e3] * 3)
        for name, value in milliseconds.items()
    }
    rows, _ = table(plan, entries, 1, 1)
    ratios = {row[1]: row[4:6] for row in rows[1:]}
    assert ratios["qcompiler int8"] == ["0.500", "6.00"]
    assert ratios["OpenVINO int8"] == ["1.000", "3.00"]
    assert ratios["ONNX Runtime int8"] == ["1.250", "2.40"]
    assert ratios["OpenVINO fp32"] == ["3.000", "1.00"]


def test_a_failure_stands_in_the_table_with_its_reason() -> None:
    plan = _plan("qcompiler", "openvino-int8")
    entries: Entries = {
        (1, 1, "resnet18", "qcompiler"): Entry(seconds=[0.002]),
        (1, 1, "resnet18", "openvino-int8"): Entry(failure="no memory"),
    }
    rows, notes = table(plan, entries, 1, 1)
    assert rows[1][4:6] == ["-", "-"]
    assert rows[2] == ["resnet18", "OpenVINO int8", "failed", "-", "-", "-", "-"]
    assert "resnet18, OpenVINO int8: no memory" in notes


@pytest.mark.parametrize(
    ("python", "model", "reason"),
    [
        ("no-such-python", "resnet18", "no-such-python does not start: No such file"),
        (sys.executable, "no-such-model", "making torch of no-such-model failed: KeyError"),
    ],
)
def test_a_worker_that_cannot_load_gives_the_reason(
    python: str, model: str, reason: str, tmp_path: Path
) -> None:
    worker = Worker(python, tmp_path, model, "torch", 1, [1])
    with worker, pytest.raises(Failure, match=reason):
        worker.start()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mobilenet_v2", 3_504_872), ("resnet18", 11_689_512), ("resnet50", 25_557_032)],
)
def test_the_networks_are_the_standard_ones_and_do_not_run_away(name: str, parameters: int) -> None:
    model = MODELS[name]()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)))
    assert logits.shape == (1, 1000)
    assert 0.05 < float(logits.std()) < 5


def test_signal_to_noise_of_parts_is_that_of_the_whole() -> None:
    expected = np.ones((2, 5), np.float32)
    parts = [expected[:1] * np.float32(1.1), expected[1:] * np.float32(0.9)]
    assert signal_to_noise(expected, parts) == pytest.approx(20, abs=1e-4)


def test_a_worker_that_does_not_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.remote._START_SECONDS", 0.0)
    with Worker(sys.executable, tmp_path, "resnet18", "torch", 1, [1]) as worker:
        with pytest.raises(Failure, match="no answer within 0 s"):
            worker.start()
        worker.stop()
        with pytest.raises(RuntimeError, match="not started"):
            worker.slot(1, 1.0)
