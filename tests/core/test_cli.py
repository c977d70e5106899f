"""The command line: every command, and bad input without a traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from qcompiler import cli
from tests.core.models_for_cli import small

HERE = "tests.core.models_for_cli"


class Outcome:
    """What a call of the command line did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    """Returns a function that runs ``qcompiler ARGUMENTS`` in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    return Caller(monkeypatch, capsys)


class Caller:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> Outcome:
        self._monkeypatch.setattr("sys.argv", ["qcompiler", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            cli.main()
        captured = self._capsys.readouterr()
        code = info.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    def refused(self, code: str, *arguments: str | Path) -> str:
        """Runs a command that must fail with an error code, and returns the message."""
        outcome = self(*arguments)
        assert outcome.status == 1
        assert outcome.err.startswith(f"error {code}: ")
        assert "Traceback" not in outcome.err
        return outcome.err


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the path of a compiled small program."""
    import qcompiler

    model, _, data = small()
    path = tmp_path_factory.mktemp("artifact") / "small.qcp"
    qcompiler.compile(model, data, target="cpu").save(path)
    return path


def test_help_lists_the_commands(call: Caller) -> None:
    outcome = call("--help")
    assert outcome.status == 0
    for command in ("compile", "run", "report", "verify", "bench", "opt", "passes", "targets"):
        assert command in outcome.out


def test_export_of_a_model(call: Caller, tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    options = ("--target", "armv8-a", "-o", folder, "--name", "net", "--weights-array")
    outcome = call("export", f"{HERE}:small", *options)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"wrote {sum(p.is_file() for p in folder.rglob('*'))} files to")
    assert f"flash {(folder / 'data/weights.bin').stat().st_size} bytes, ram " in outcome.out
    assert (folder / "src/weights.c").is_file()
    assert "project(net C)" in (folder / "CMakeLists.txt").read_text()


def test_export_of_a_program(call: Caller, artifact: Path, tmp_path: Path) -> None:
    outcome = call("export", artifact, "-o", tmp_path / "dist")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "dist/include/model.h").is_file()
    assert not (tmp_path / "dist/cmake").exists()
    assert "takes no data" in call.refused("QC0901", "export", artifact, "--data", "a.b:c")
    call.refused("QC0826", "export", artifact, "--target", "armv8-a", "--ram", "64")
    outcome = call("export", artifact, "--target", "armv8-fat", "-o", tmp_path / "arm")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "arm/src/kernels/tile_i8mm.c").is_file()


def test_export_to_a_device_that_is_too_small(call: Caller, tmp_path: Path) -> None:
    options = ("--target", "cortex-a53", "--ram", "64", "-o", tmp_path / "dist")
    assert "bytes of ram" in call.refused("QC0826", "export", f"{HERE}:small", *options)
    (tmp_path / "file").touch()
    call.refused("QC0604", "export", f"{HERE}:small", "-o", tmp_path / "file")


def test_version(call: Caller) -> None:
    assert call("--version").out.startswith("qcompiler ")


def test_compile_from_a_callable(call: Caller, tmp_path: Path) -> None:
    output = tmp_path / "out.qcp"
    outcome = call("compile", f"{HERE}:small", "--target", "reference", "-o", output)
    assert outcome.status == 0, outcome.err
    assert output.is_file()
    assert str(output) in outcome.out


def test_compile_measures_choices_within_a_time(call: Caller, tmp_path: Path) -> None:
    output = tmp_path / "out.qcp"
    tuned = ("--tune", "fast", "--tune-seconds", "0.3")
    outcome = call("compile", f"{HERE}:small", *tuned, "-o", output)
    assert outcome.status == 0, outcome.err
    assert "cpu: tuned (fast) at the level" in call("report", output).out


def test_an_unknown_effort_of_tuning_is_refused(call: Caller, tmp_path: Path) -> None:
    """Before the model is loaded: it is not there."""
    output = ("-o", tmp_path / "out.qcp")
    assert "tune='full'" in call.refused("QC0805", "compile", "no:model", "--tune", "x", *output)
    call.refused("QC0805", "compile", "no:model", "--tune-seconds", "3", *output)


def test_compile_from_an_exported_program(call: Caller, tmp_path: Path) -> None:
    model, inputs, _ = small()
    exported = tmp_path / "small.pt2"
    torch.export.save(torch.export.export(model, inputs), exported)
    output = tmp_path / "out.qcp"
    arguments = ("compile", exported, "--data", f"{HERE}:batches", "--target", "reference")
    outcome = call(*arguments, "-o", output)
    assert outcome.status == 0, outcome.err
    assert output.is_file()


def test_run_reads_and_writes_tensors(call: Caller, artifact: Path, tmp_path: Path) -> None:
    import qcompiler

    images = torch.randn(2, 3, 8, 8)
    np.save(tmp_path / "x.npy", images.numpy())
    outcome = call("run", artifact, tmp_path / "x.npy", "-o", tmp_path / "y.safetensors")
    assert outcome.status == 0, outcome.err
    assert "output0: float32[2, 5]" in outcome.out
    written = safetensors.torch.load_file(tmp_path / "y.safetensors")["output0"]
    assert torch.equal(written, qcompiler.load(artifact)(images))

    outcome = call("run", artifact, tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--threads", "2")
    assert np.array_equal(np.load(tmp_path / "y.npy"), written.numpy())


@pytest.mark.parametrize("command", ["report", "verify", "bench"])
def test_commands_on_a_program(call: Caller, artifact: Path, command: str) -> None:
    outcome = call(command, artifact)
    assert outcome.status == 0, outcome.err
    assert outcome.out.strip()


@pytest.mark.parametrize("listing", ["passes", "targets"])
def test_listings(call: Caller, listing: str) -> None:
    known = {"passes": "normalize-ops", "targets": "reference"}[listing]
    outcome = call(listing)
    assert outcome.status == 0
    assert known in outcome.out
    assert known in call(listing, known).out
    assert listing == "targets" or "\ndefault" in outcome.out


def test_opt_runs_a_pipeline_and_its_output_is_input(call: Caller, tmp_path: Path) -> None:
    outcome = call("opt", f"{HERE}:small", "--pipeline", "normalize-ops")
    assert outcome.status == 0, outcome.err
    assert "qfloat.conv2d" in outcome.out
    text = tmp_path / "normalized.qcir"
    outcome = call("opt", f"{HERE}:small", "--pipeline", "normalize-ops", "-o", text)
    assert outcome.status == 0, outcome.err
    outcome = call("opt", text, "--pipeline", "eliminate-dead-nodes", "--time")
    assert outcome.status == 0, outcome.err
    assert "qfloat.conv2d" in outcome.out
    assert "eliminate-dead-nodes" in outcome.err


def test_opt_prints_between_and_stops(call: Caller) -> None:
    pipeline = "normalize-ops,fold-batch-norm,eliminate-dead-nodes"
    arguments = ("opt", f"{HERE}:small", "--pipeline", pipeline)
    outcome = call(*arguments, "--print-after", "normalize-ops", "--stop-after", "fold-batch-norm")
    assert outcome.status == 0, outcome.err
    assert "after normalize-ops" in outcome.err
    assert "eliminate-dead-nodes" not in outcome.err


def test_explain_error(call: Caller) -> None:
    assert "at least one batch" in call("explain-error", "qc0103").out
    assert "QC0103" in call.refused("QC0903", "explain-error", "QC103")


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("nothing", "is not package.module:callable"),
        ("no.such.module:f", "No module named"),
        (f"{HERE}:nope", "has no attribute 'nope'"),
        (f"{HERE}:NOT_CALLABLE", "is no callable"),
        (f"{HERE}:pair", "returned (ReLU, int) instead"),
        (f"{HERE}:failing", "RuntimeError: no weights here"),
        ("missing.pt2", "there is no file"),
    ],
)
def test_a_bad_model_is_refused(call: Caller, tmp_path: Path, model: str, problem: str) -> None:
    output = tmp_path / "out.qcp"
    assert problem in call.refused("QC0901", "compile", model, "-o", output)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_callable_is_shown_with_its_line(call: Caller, tmp_path: Path) -> None:
    message = call.refused("QC0901", "compile", f"{HERE}:failing", "-o", tmp_path / "out.qcp")
    assert "models_for_cli.py:" in message


def test_bad_data_are_refused(call: Caller, tmp_path: Path) -> None:
    arguments = ("compile", f"{HERE}:small", "-o", tmp_path / "out.qcp", "--data")
    assert "instead of an iterable" in call.refused("QC0904", *arguments, f"{HERE}:number")


def test_a_pt2_file_needs_data(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"")
    message = call.refused("QC0901", "compile", tmp_path / "m.pt2", "-o", tmp_path / "out.qcp")
    assert "--data" in message


def test_an_unknown_target_offers_the_nearest(call: Caller, tmp_path: Path) -> None:
    arguments = ("compile", f"{HERE}:small", "-o", tmp_path / "o.qcp", "--target", "cpuu")
    assert "did you mean cpu" in call.refused("QC0506", *arguments)


def test_an_unknown_pass_offers_the_nearest(call: Caller) -> None:
    arguments = ("opt", f"{HERE}:small", "--pipeline", "normalise-ops")
    assert "did you mean normalize-ops" in call.refused("QC0501", *arguments)


def test_an_unwritable_path_is_refused_before_the_work(call: Caller, tmp_path: Path) -> None:
    output = tmp_path / "missing" / "out.qcp"
    assert "there is no folder" in call.refused("QC0604", "compile", "x:y", "-o", output)
    assert "is a folder" in call.refused("QC0604", "compile", "x:y", "-o", tmp_path)


@pytest.mark.parametrize("command", ["run", "report", "verify", "bench"])
def test_a_file_that_is_no_artifact_is_refused(call: Caller, tmp_path: Path, command: str) -> None:
    (tmp_path / "no.qcp").write_bytes(b"no zip")
    call.refused("QC0602", command, tmp_path / "no.qcp")
    call.refused("QC0602", command, tmp_path / "missing.qcp")


@pytest.mark.parametrize(
    ("name", "content"), [("x.npy", b"junk"), ("x.safetensors", b"junk"), ("x.txt", b"1 2")]
)
def test_a_bad_input_file_is_refused(
    call: Caller, artifact: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    call.refused("QC0902", "run", artifact, tmp_path / name, "-o", tmp_path / "y.npy")


def test_a_pickled_array_is_refused(call: Caller, artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    call.refused("QC0902", "run", artifact, tmp_path / "x.npy", "-o", tmp_path / "y.npy")


def test_a_wrong_input_shape_is_refused(call: Caller, artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 9, 8), np.float32))
    call.refused("QC0701", "run", artifact, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
