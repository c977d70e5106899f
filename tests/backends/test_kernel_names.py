"""The names of the kernel library follow the grammar that docs/kernels.md states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qcompiler.backends.arm.isa import DSP_M4, HELIUM
from qcompiler.backends.arm.isa import LEVELS as ARM_LEVELS
from qcompiler.backends.cpu.isa import LEVELS as CPU_LEVELS
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.backends.native.levels import INTERFACE, Isa, generated, names_header

LEVELS = (*CPU_LEVELS, *ARM_LEVELS, HELIUM, DSP_M4)
GUIDE = Path(__file__).parents[2] / "docs" / "kernels.md"
_TOKEN = re.compile(r'"([^"]*)"|(\w+)|([\[\]{}|])')
_BRACKETS = {"[": "(?:", "]": ")?", "{": "(?:", "}": ")*", "|": "|"}
# Rules that a name uses at most once.
_PARTS = ("kernel", "operation", "types", "level", "service")
_PROTOTYPE = re.compile(r"^[\w ]+?\b(qc_\w+)\(([^;{}]*)\);", re.MULTILINE)
_POINTER = re.compile(r"(const )?(\w+) \*(\w+)")
_TYPES = {"qc_code": "u8", "int32_t": "i32", "float": "f32"}


def read_grammar(text: str) -> dict[str, str]:
    """Returns the pattern of each rule: [ ] is optional, { } any number, | a choice."""
    bodies: dict[str, str] = {}
    for line in re.findall(r"^    (.+)$", text.partition("## Names")[2], re.MULTILINE):
        name, assigned, body = line.partition(":=")
        if assigned:
            bodies[name.strip()] = body
        elif line.lstrip().startswith("|"):
            bodies[[*bodies][-1]] += line

    def pattern(rule: str) -> str:
        parts = [
            re.escape(literal) or (pattern(name) if name else _BRACKETS[bracket])
            for literal, name, bracket in _TOKEN.findall(bodies[rule])
        ]
        return f"(?P<{rule}>{''.join(parts)})" if rule in _PARTS else f"(?:{''.join(parts)})"

    return {rule: pattern(rule) for rule in bodies}


GRAMMAR = read_grammar(GUIDE.read_text(encoding="utf-8"))
SOURCES = kernel_sources()
# The parameters of each function that the emitted program may call.
PROTOTYPES: dict[str, str] = dict(_PROTOTYPE.findall(SOURCES[INTERFACE].decode()))


def parse(name: str) -> re.Match[str] | None:
    """Returns the parts of a name, None for one that the grammar does not have."""
    return re.fullmatch(GRAMMAR["name"], name)


def words(rule: str) -> set[str]:
    """Returns what a rule chooses between."""
    return set(re.sub(r"^\(\?(:|P<\w+>)|\)$", "", GRAMMAR[rule]).split("|"))


def named(kernel: str) -> list[str]:
    """Returns the types in a name, the result's last."""
    found = parse(kernel)
    assert found
    return found["types"].split("_") if found["types"] else []


def test_every_function_of_the_library_is_found() -> None:
    assert set(re.findall(r"\bqc_\w+(?=\()", SOURCES[INTERFACE].decode())) == set(PROTOTYPES)


def test_the_library_follows_the_grammar_and_has_all_that_it_lists() -> None:
    found = {name: parse(name) for name in PROTOTYPES}
    assert [name for name, parts in found.items() if not parts] == []
    assert {parts["operation"] for parts in found.values() if parts} - {None} == words("operation")
    assert {parts["service"] for parts in found.values() if parts} - {None} == words("service")
    assert words("level") == {level.name for level in LEVELS}


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_symbol_of_a_level_is_the_kernel_and_the_level(level: Isa) -> None:
    header = generated(SOURCES, LEVELS)[names_header(level)].decode()
    symbols = {line.split()[1]: line.split()[2] for line in header.splitlines()}
    for kernel in PROTOTYPES.keys() - words("service"):
        found = parse(symbols[kernel])
        assert found, symbols[kernel]
        assert (found["kernel"], found["level"]) == (kernel, level.name)


def test_types_are_those_of_the_prototype() -> None:
    """Weights stand in the block of parameters; residuals and tables are no operands."""
    for kernel, parameters in PROTOTYPES.items():
        pointers = _POINTER.findall(parameters)
        tensors = [p for p in pointers if p[1] in _TYPES and p[2] not in ("residual", "table")]
        types = [t for t in named(kernel) if t != "s8c"]
        if not types:
            assert not [p for p in tensors if p[2] == "out"], kernel
            continue
        assert [bool(const) for const, _, _ in tensors] == [True] * (len(tensors) - 1) + [False]
        given = [_TYPES[kind] for _, kind, _ in tensors]
        assert given == types or (len(types) == 1 and set(given) == set(types)), kernel


def test_one_type_stands_for_all_where_the_operation_has_no_other_form() -> None:
    forms: dict[str, list[list[str]]] = {}
    for kernel in PROTOTYPES:
        found = parse(kernel)
        assert found
        forms.setdefault(found["operation"], []).append(named(kernel))
    for operation, all_types in forms.items():
        short = len(all_types) == 1 and len(set(all_types[0])) == 1
        assert all((len(types) == 1) == short for types in all_types), operation


@pytest.mark.parametrize(
    "name",
    [
        "conv2d_u8_s8c_u8",
        "qc_conv_u8_s8c_u8",
        "qc_Add_u8",
        "qc_u8_add",
        "qc_add_s16",
        "qc_add_u8_",
        "qc_add_u8_sse2",
        "qc_add_u8_avx2_fast",
        "qc_add_avx2_u8",
        "qc_matmul_u8_u8_f16",
        "qc_matmul_u8_s8c_s8c",
        "qc_parallel_avx2",
        "qc_copy_nd_sve",
        "",
    ],
)
def test_other_names_are_none(name: str) -> None:
    assert parse(name) is None


def test_a_name_that_breaks_the_grammar_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOTYPES, "qc_conv2d_u8_s16_u8", "")
    with pytest.raises(AssertionError, match="qc_conv2d_u8_s16_u8"):
        test_the_library_follows_the_grammar_and_has_all_that_it_lists()
