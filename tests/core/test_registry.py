"""Names of built-ins and of third parties come in by the same door."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import pytest

from qcompiler import registry
from qcompiler.errors import QCompilerError


def _points(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    """Makes (name, place, package) the installed entry points of every group."""

    def entry_points(group: str) -> EntryPoints:
        made = []
        for name, place, package in points:
            point = EntryPoint(name=name, value=place, group=group)
            vars(point)["dist"] = SimpleNamespace(name=package)
            made.append(point)
        return EntryPoints(made)

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry.refresh()


@pytest.fixture(autouse=True)
def _fresh_tables() -> Iterator[None]:
    registry.refresh()
    yield
    registry.refresh()


def test_lists_built_ins_and_third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, ("toaster", "json:dumps", "toast-tools"))
    assert {"cpu", "reference", "toaster"} <= set(registry.names(registry.TARGETS))
    assert registry.owner(registry.TARGETS, "toaster") == "toast-tools"
    assert registry.owner(registry.TARGETS, "cpu") == "qcompiler"


def test_loads_an_attribute_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import json.decoder

    _points(monkeypatch, ("deep", "json.decoder:JSONDecoder.decode", "toast-tools"))
    assert registry.load(registry.TARGETS, "deep") is json.decoder.JSONDecoder.decode


def test_listing_imports_no_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, ("broken", "no_such_module:thing", "toast-tools"))
    assert "broken" in registry.names(registry.TARGETS)


def test_a_name_of_two_owners_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, ("cpu", "json:dumps", "toast-tools"))
    with pytest.raises(
        QCompilerError, match=r"registered by qcompiler .*and by toast-tools"
    ) as info:
        registry.names(registry.TARGETS)
    assert info.value.code == "QC0505"


@pytest.mark.parametrize(
    ("group", "name", "code", "offered"),
    [
        (registry.PASSES, "fold-batch-nrom", "QC0501", "fold-batch-norm"),
        (registry.TARGETS, "cpuu", "QC0506", "cpu"),
        (registry.OPS, "conv9d", "QC0509", "known names"),
    ],
)
def test_an_unknown_name_offers_the_nearest(group: str, name: str, code: str, offered: str) -> None:
    with pytest.raises(QCompilerError, match=name) as info:
        registry.load(group, name)
    assert info.value.code == code
    assert offered in info.value.remedy


@pytest.mark.parametrize("place", ["no_such_module:thing", "json:no_such_attribute"])
def test_a_broken_registration_names_its_owner(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    _points(monkeypatch, ("broken", place, "toast-tools"))
    with pytest.raises(QCompilerError, match="of toast-tools cannot be imported") as info:
        registry.load(registry.TARGETS, "broken")
    assert info.value.code == "QC0510"


@pytest.mark.parametrize("group", [registry.PASSES, registry.TARGETS])
def test_every_built_in_loads(group: str) -> None:
    for name in registry.names(group):
        assert registry.load(group, name).__doc__
