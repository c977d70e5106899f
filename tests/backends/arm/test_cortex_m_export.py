"""C projects for Cortex-M: built without a warning, run on machines, equal to the reference."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import qcompiler
from qcompiler.api import resolve_target
from qcompiler.backends.arm import bare
from qcompiler.errors import QCompilerError
from tests.assets import digits, load_mnist_net
from tests.backends.arm.test_export import CLANG
from tests.backends.test_native_program import small_network

CORES = ("cortex-m4", "cortex-m33", "cortex-m55")
IMAGE = torch.randn(1, 3, 17, 15, generator=torch.Generator().manual_seed(4))
STRICT = "-DCMAKE_C_FLAGS=-Wall -Wextra -Wpedantic -Wconversion -Werror"
# zig is found as the python package of the interpreter that runs the tests.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def write(target: str, folder: Path) -> Path:
    """Writes the small network's project for a target."""
    project = resolve_target(target).build(small_network()).project("model", weights_array=False)
    for place, content in project.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    return folder


def cmake(root: Path, toolchain: str) -> Path:
    """Builds a project with every warning an error, and returns the example's folder."""
    configure = ["cmake", "-B", "build", f"-DCMAKE_TOOLCHAIN_FILE=cmake/{toolchain}.cmake", STRICT]
    for command in (configure, ["cmake", "--build", "build", "-j2"]):
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, env={**os.environ, "PATH": PATH}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return root / "build"


def run_example(root: Path, example: Path) -> subprocess.CompletedProcess[str]:
    """Runs an example by the command that the project's README gives, in the example's folder."""
    found = re.search(r"^(qemu-system-arm .*) build/(\w+)$", (root / "README.md").read_text(), re.M)
    assert found is not None
    command = [*found[1].split(), found[2]]
    return subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("core", "compiler"),
    [("cortex-m4", "gcc"), ("cortex-m33", "clang"), ("cortex-m55", "zig")],
)
def test_a_project_builds_without_a_warning_and_runs(
    core: str, compiler: str, tmp_path: Path
) -> None:
    root = write(core, tmp_path)
    example = cmake(root, f"cortex-m-{compiler}")
    (name,) = (node.name for node in small_network().inputs)
    IMAGE.numpy().tofile(example / f"{name}.raw")
    done = run_example(root, example)
    assert done.returncode == 0, done.stdout + done.stderr
    for i, want in enumerate(small_network().run(IMAGE)):
        kind = np.float32 if want.is_floating_point() else np.int8
        have = torch.from_numpy(np.fromfile(example / f"output{i}.raw", dtype=kind))
        assert torch.equal(have, want.flatten())
    (example / f"{name}.raw").write_bytes(b"too short")
    done = run_example(root, example)
    assert done.returncode == 1
    assert "an input cannot be read" in done.stdout + done.stderr


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_an_example_refuses_a_processor_without_its_instructions(
    compiler: str, tmp_path: Path
) -> None:
    root = write("cortex-m55", tmp_path)
    example = cmake(root, f"cortex-m-{compiler}")
    readme = root / "README.md"
    readme.write_text(readme.read_text().replace("mps3-an547", "mps2-an386"))
    done = run_example(root, example)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "lacks the instructions" in done.stdout + done.stderr


def test_the_header_is_for_cpp_too(tmp_path: Path) -> None:
    root = write("cortex-m55", tmp_path)
    (tmp_path / "a.cpp").write_text(
        '#include "model.h"\nint main() { return model_init(nullptr, 0) == MODEL_NULL_POINTER; }\n'
    )
    command = [CLANG, "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    include = f"-I{root / 'include'}"
    subprocess.run([*command, include, "-fsyntax-only", str(tmp_path / "a.cpp")], check=True)


def test_a_library_is_not_compiled_for_another_core(tmp_path: Path) -> None:
    root = write("cortex-m55", tmp_path)
    flags = ["-mcpu=cortex-m3", "-mthumb", "-fsyntax-only", "-DQC_SIGNED_CODES=1"]
    include = ["-Iinclude", "-Isrc/kernels", "src/model.c"]
    done = subprocess.run(
        ["arm-none-eabi-gcc", *flags, *include], cwd=root, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "compile with -mcpu=cortex-m55" in done.stderr


def test_a_project_has_nothing_of_other_processors_and_does_not_allocate(tmp_path: Path) -> None:
    root = write("cortex-m4", tmp_path)
    names = {path.name for path in root.rglob("*.[ch]")}
    assert not {n for n in names for word in ("avx", "neon", "dotprod", "i8mm") if word in n}
    assert {"startup.c", "semihosting.h", "weights.c"} <= names
    assert {path.name for path in (root / "cmake").glob("*.cmake")} == {
        f"cortex-m-{name}.cmake" for name in ("gcc", "clang", "zig")
    }
    for path in [*root.glob("src/*.c"), *root.glob("src/kernels/*")]:
        text = path.read_text()
        for word in ("malloc", "calloc", "math.h", "pthread", "stdio.h", "stdlib.h"):
            assert word not in text, path


def test_what_a_program_takes_of_flash_and_ram_is_told_and_limited(tmp_path: Path) -> None:
    batches = [digits().images[:16], digits().images[4000:4016]]
    program = qcompiler.compile(load_mnist_net(), batches, target="cortex-m55")
    written = program.export_c(tmp_path, name="digits")
    memory = written.memory
    assert memory["constants"] == (tmp_path / "data/weights.bin").stat().st_size
    assert memory["flash"] == memory["constants"] + memory["code"]
    assert 8_000 < memory["code"] < 64_000
    assert (
        f"#define MODEL_ARENA_BYTES {memory['ram']}\n" in (tmp_path / "include/model.h").read_text()
    )
    assert f"code {memory['code']} bytes" in str(written)
    limits = {"flash": memory["flash"] - 1}
    with pytest.raises(QCompilerError) as caught:
        qcompiler.compile(load_mnist_net(), batches, target="cortex-m55", memory=limits)
    assert caught.value.code == "QC0826"
    assert f"{memory['code']} bytes: code" in caught.value.problem


def test_code_is_left_out_where_no_compiler_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bare.COMPILER, "no-such-compiler")
    program = resolve_target("cortex-m4").build(small_network())
    assert "code" not in program.memory()
    assert program.memory()["flash"] == len(
        program.project("m", weights_array=False)["data/weights.bin"]
    )
