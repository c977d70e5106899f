"""C projects: they build without a warning, run, and tell bad calls by status."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qcompiler.api import resolve_target
from qcompiler.backends.arm.cross import emulator
from qcompiler.backends.arm.executable import ArmTarget
from qcompiler.target.base import Executable
from tests.backends.test_native_program import small_network

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O1")
SIGNED = ("-DQC_SIGNED_CODES=1", "-fwrapv", "-ffp-contract=off")
GCC = ("aarch64-linux-gnu-gcc",)
CLANG = next((name for name in ("clang", "clang-19", "clang-14") if shutil.which(name)), "clang")
COMPILERS = {
    "gcc": GCC,
    "clang": (CLANG, "--target=aarch64-linux-gnu", "-isystem", "/usr/aarch64-linux-gnu/include"),
    "zig": (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"),
}
TARGETS = ("armv8-a", "armv8.2-a+dotprod", "armv8.6-a+i8mm", "armv8-fat")
IMAGE = torch.randn(2, 3, 17, 15, generator=torch.Generator().manual_seed(4))


def write(program: Executable, folder: Path, *, weights_array: bool = False) -> Path:
    """Writes a program's C project."""
    for place, content in program.project("model", weights_array=weights_array).items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the folder of the small network's project for each level."""
    root = tmp_path_factory.mktemp("projects")
    made = {}
    for name in TARGETS:
        program = resolve_target(name).build(small_network())
        made[name] = write(program, root / name, weights_array=name == "armv8-a")
    return made


def flags_of(target: str, compiler: str) -> list[tuple[str, ...]]:
    """Returns the options for each level of a target."""
    chosen = resolve_target(target)
    assert isinstance(chosen, ArmTarget)
    return [level.zig_flags if compiler == "zig" else level.flags for level in chosen.levels]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", TARGETS[:3])
def test_projects_compile_without_a_warning(
    projects: dict[str, Path], target: str, compiler: str, tmp_path: Path
) -> None:
    root = projects[target]
    places = ("src/*.c", "src/kernels/*.c", "example/*.c")
    sources = sorted(str(path) for place in places for path in root.glob(place))
    assert len(sources) > 10
    include = [f"-I{root / 'include'}", f"-I{root / 'src/kernels'}"]
    (flags,) = flags_of(target, compiler)
    command = [*COMPILERS[compiler], *STRICT, *SIGNED, *flags, *include]
    if compiler == "zig":  # one file at a time, as it names objects by their files alone
        for source in sources:
            run = [*command, "-c", source, "-o", str(tmp_path / "unit.o")]
            done = subprocess.run(run, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return
    done = subprocess.run([*command, "-c", *sources], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_fat_project_binds_its_levels_without_a_warning(
    projects: dict[str, Path], compiler: str, tmp_path: Path
) -> None:
    """Its kernels are those of the levels; what calls them through tables is its own."""
    root = projects["armv8-fat"]
    include = [f"-I{root / 'include'}", f"-I{root / 'src/kernels'}"]
    command = [*COMPILERS[compiler], *STRICT, *SIGNED, *include]
    for source in ("src/model.c", "src/dispatch.c", "src/serial.c", "example/main.c"):
        run = [*command, "-c", str(root / source), "-o", str(tmp_path / "unit.o")]
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


def test_every_text_of_a_project_ends_with_a_line(projects: dict[str, Path]) -> None:
    for root in projects.values():
        for path in root.rglob("*"):
            if path.is_file() and path.parent.name not in ("data", "build"):
                assert path.read_text().endswith("\n"), path


def test_the_header_is_for_cpp_too(projects: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text(
        '#include "model.h"\n#include "model.h"\n'
        "int main() { return model_init(nullptr, 0) == MODEL_NULL_POINTER; }\n"
    )
    command = [CLANG, "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    include = f"-I{projects['armv8-a'] / 'include'}"
    subprocess.run([*command, include, "-fsyntax-only", str(tmp_path / "a.cpp")], check=True)


def cmake(root: Path, toolchain: str | None) -> Path:
    """Builds a project as its README says, and returns the folder of the build."""
    chosen = [] if toolchain is None else [f"-DCMAKE_TOOLCHAIN_FILE=cmake/{toolchain}.cmake"]
    for command in (["cmake", "-B", "build", *chosen], ["cmake", "--build", "build", "-j2"]):
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return root / "build"


def run_example(prefix: tuple[str, ...], root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the example of a project on an image; results go to r0.raw and so on."""
    IMAGE[:1].numpy().tofile(root / "image.raw")
    results = [f"r{i}.raw" for i in range(3)]
    command = [*prefix, "build/model_example", "data/weights.bin", "image.raw", *results]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def check_results(root: Path) -> None:
    """Compares what the example has written with the reference."""
    for i, want in enumerate(small_network().run(IMAGE[:1])):
        have = np.fromfile(root / f"r{i}.raw", dtype=want.numpy().dtype)
        assert torch.equal(torch.from_numpy(have), want.flatten())


def test_a_fat_project_runs_on_every_core(projects: dict[str, Path]) -> None:
    root = projects["armv8-fat"]
    cmake(root, "aarch64-gcc")
    for model in ("cortex-a53", "cortex-a76", "max"):
        done = run_example(emulator(model), root)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("output0: ")
        check_results(root)


def test_a_project_refuses_a_core_without_its_instructions(projects: dict[str, Path]) -> None:
    root = projects["armv8.6-a+i8mm"]
    cmake(root, "aarch64-clang")
    done = run_example(emulator("cortex-a76"), root)
    assert done.returncode == 3
    assert "lacks the instructions" in done.stderr
    assert run_example(emulator("max"), root).returncode == 0
    check_results(root)


def test_a_project_for_this_machine(tmp_path: Path) -> None:
    root = write(resolve_target("cpu").build(small_network()), tmp_path)
    cmake(root, None)
    done = run_example((), root)
    assert done.returncode == 0, done.stderr
    for i, want in enumerate(small_network().run(IMAGE[:1])):
        stored = np.fromfile(root / f"r{i}.raw", dtype=np.float32 if i == 0 else np.uint8)
        have = torch.from_numpy(stored)
        have = have if i == 0 else (have ^ 128).view(torch.int8)
        assert torch.equal(have, want.flatten())


CALLS = r"""
#include "model.h"
#include <stdio.h>
#include <string.h>

static _Alignas(64) unsigned char arena[MODEL_ARENA_BYTES + 64];
static float image[2 * 3 * 17 * 15], first[2 * 24];
static int8_t second[2 * 384], third[2 * 384];
static int begun, ended, ordered = 1;

static void hook(void *user, int index, int end)
{
    ordered &= user == &begun && index == ended && model_operator_name(index)[0];
    *(end ? &ended : &begun) += 1;
}

static int run(int64_t batch, void *at, size_t bytes)
{
    return (int)model_run(batch, image, first, second, third, at, bytes);
}

static int untouched(void)
{
    for (size_t i = 0; i < sizeof arena; i++)
        if (arena[i] != 0xa5)
            return 0;
    for (size_t i = 0; i < sizeof second; i++)
        if (second[i] != 77 || third[i] != 77)
            return 0;
    return 1;
}

int main(void)
{
    static _Alignas(64) uint8_t other[MODEL_WEIGHT_BYTES];
    memset(arena, 0xa5, sizeof arena);
    memset(second, 77, sizeof second);
    memset(third, 77, sizeof third);
    if (fread(image, sizeof image, 1, stdin) != 1)
        return 1;
    const size_t bytes = model_arena_bytes();
    printf("%d ", run(1, arena, bytes));
    printf("%d ", (int)model_init(NULL, MODEL_WEIGHT_BYTES));
    printf("%d ", (int)model_init(model_weights + 1, MODEL_WEIGHT_BYTES));
    printf("%d ", (int)model_init(model_weights, MODEL_WEIGHT_BYTES - 1));
    printf("%d ", (int)model_init(other, MODEL_WEIGHT_BYTES));
    printf("%d ", (int)model_init(model_weights, MODEL_WEIGHT_BYTES));
    printf("%d ", run(1, arena + 1, bytes));
    printf("%d ", run(1, arena, bytes - 1));
    printf("%d ", run(0, arena, bytes));
    printf("%d ", run(65, arena, bytes));
    printf("%d ", run(1, NULL, bytes));
    printf("%d ", (int)model_run(1, NULL, first, second, third, arena, bytes));
    printf("%d %d ", bytes == MODEL_ARENA_BYTES, untouched());
    model_set_profiler(hook, &begun);
    printf("%d ", run(2, arena, bytes));
    printf("%d %d %d ", begun == 2 * MODEL_OPERATORS, ended == begun, arena[bytes] == 0xa5);
    printf("%s %d\n", model_inputs[0].name, model_outputs[1].shape[0]);
    fwrite(first, sizeof first, 1, stdout);
    fwrite(second, sizeof second, 1, stdout);
    return 0;
}
"""


def test_bad_calls_are_told_and_write_nothing(projects: dict[str, Path], tmp_path: Path) -> None:
    root = projects["armv8-a"]
    (tmp_path / "calls.c").write_text(CALLS)
    sources = sorted(str(path) for path in [*root.glob("src/*.c"), *root.glob("src/kernels/*.c")])
    include = [f"-I{root / 'include'}", f"-I{root / 'src/kernels'}"]
    built = str(tmp_path / "calls")
    command = [*GCC, *STRICT, *SIGNED, *include, "-static", str(tmp_path / "calls.c"), *sources]
    subprocess.run([*command, "-o", built], check=True)
    done = subprocess.run(
        [*emulator("cortex-a53"), built], input=IMAGE.numpy().tobytes(), capture_output=True
    )
    line, _, results = done.stdout.partition(b"\n")
    statuses = [*("1", "2", "3", "5", "5", "0"), *("3", "4", "6", "6", "2", "2")]
    after = ["1", "1", "0", "1", "1", "1", "image", "-1"]
    assert line.decode().split() == [*statuses, *after]
    want = small_network().run(IMAGE)
    assert results[: 2 * 24 * 4] == want[0].numpy().tobytes()
    assert results[2 * 24 * 4 :] == want[1].numpy().tobytes()


def test_projects_do_not_allocate(projects: dict[str, Path]) -> None:
    for place in ("src/*.c", "src/kernels/*.[ch]"):
        for path in projects["armv8-a"].glob(place):
            text = path.read_text()
            for word in ("malloc", "calloc", "math.h", "pthread", "stdio.h"):
                assert word not in text, path


def test_projects_are_the_same_bytes_each_time(projects: dict[str, Path]) -> None:
    again = resolve_target("armv8-fat").build(small_network()).project("model", weights_array=False)
    root = projects["armv8-fat"]
    assert all((root / place).read_bytes() == content for place, content in again.items())
    assert os.path.getsize(root / "data/weights.bin") == len(again["data/weights.bin"])
