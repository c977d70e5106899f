"""The default number of threads: the environment, cores of the affinity mask, CPU quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcompiler.errors import QCompilerError
from qcompiler.runtime import threads
from qcompiler.runtime.threads import VARIABLE, available_cores, check_threads, default_threads


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pretends that the machine has 8 hardware threads on 4 cores, and no control groups."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(threads, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "_OWN_GROUPS", tmp_path / "own")
    for cpu in range(8):
        write(
            tmp_path / f"cpus/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n"
        )
    allow(monkeypatch, *range(8))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def allow(monkeypatch: pytest.MonkeyPatch, *cpus: int) -> None:
    """Sets the affinity mask that the process sees."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(cpus), raising=False)


def test_hardware_threads_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cores() == default_threads() == 4
    allow(monkeypatch, 1, 5)
    assert available_cores() == 1
    allow(monkeypatch, 1, 2, 6)
    assert available_cores() == 2


def test_without_a_topology_every_cpu_is_a_core(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_CPUS", machine / "nothing")
    assert available_cores() == 8


def test_without_affinity_masks_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores() == 3


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_quota_of_the_second_version_limits(machine: Path, limit: str, cores: int) -> None:
    write(machine / "own", "0::/user/job\n")
    write(machine / "groups/user/job/cpu.max", limit)
    assert available_cores() == cores


def test_a_quota_of_a_group_above_limits_as_well(machine: Path) -> None:
    write(machine / "own", "0::/user/job\n")
    write(machine / "groups/user/cpu.max", "300000 100000")
    write(machine / "groups/user/job/cpu.max", "max 100000")
    assert available_cores() == 3
    write(machine / "groups/cpu.max", "200000 100000")
    assert available_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("300000", 3)])
def test_a_quota_of_the_first_version_limits(machine: Path, quota: str, cores: int) -> None:
    write(machine / "own", "4:memory:/job\n3:cpu,cpuacct:/job\n")
    write(machine / "groups/cpu/job/cpu.cfs_quota_us", quota)
    write(machine / "groups/cpu/job/cpu.cfs_period_us", "100000")
    assert available_cores() == cores


@pytest.mark.parametrize("text", ["1", "3", " 12 "])
def test_the_environment_sets_the_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert default_threads() == int(text)


@pytest.mark.parametrize("text", ["0", "-2", "2.5", "many", "0x2", "1025", "9" * 5000])
def test_another_value_of_the_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(QCompilerError) as caught:
        default_threads()
    assert caught.value.code == "QC0702"
    assert caught.value.problem == f"QCOMPILER_NUM_THREADS is {text!r}"
    assert "this process may use 4" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_value_of_the_environment_is_none(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert default_threads() == available_cores()


def test_numbers_that_count_no_threads_are_refused() -> None:
    assert [check_threads(n, "it") for n in (5, 1024)] == [5, 1024]
    for wrong in (0, -1, True, 2.0, None, 1025):
        with pytest.raises(QCompilerError, match="QC0702: it is"):
            check_threads(wrong, "it")
