"""Options and pipelines as text: they round-trip, and wrong text is refused at its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler import registry
from qcompiler.errors import QCompilerError
from qcompiler.passmgr.base import Pass
from qcompiler.passmgr.describe import pass_class, target_class
from qcompiler.passmgr.options import build, format_pass, format_value, split_pipeline
from qcompiler.passmgr.pipeline import Pipeline


@dataclass(frozen=True)
class Everything:
    """A dataclass with an option of every type."""

    name: ClassVar[str] = "every-thing"

    count: int = 3
    ratio: float = 0.5
    wanted: bool = False
    text: str = "plain"
    sizes: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ()
    limit: int | None = None
    label: str | None = "none"
    kind: Literal["one", "two words"] = "one"


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for the values of an option's type."""
    simple = {
        int: st.integers(-(2**70), 2**70),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        str: st.text()
        | st.sampled_from(["none", "()", "", 'a"b', "a\\", "a,b", "a b", "}", "{x=1}"]),
        type(None): st.none(),
    }
    if hint in simple:
        return simple[hint]
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), max_size=3).map(tuple)
    assert get_origin(hint) is Union or isinstance(hint, type(int | str))
    return st.one_of([values_of(part) for part in get_args(hint)])


@st.composite
def instances(draw: st.DrawFn, classes: list[type[Any]]) -> Any:
    """Draws a dataclass and values of its options."""
    cls = draw(st.sampled_from(classes))
    hints = get_type_hints(cls)
    options = {f.name: draw(values_of(hints[f.name])) for f in fields(cls) if draw(st.booleans())}
    try:
        return cls(**options)
    except (ValueError, QCompilerError):
        return cls()


PASSES = [pass_class(name) for name in registry.names(registry.PASSES)]


@given(instances([Everything]))
def test_options_of_every_type_round_trip(made: Everything) -> None:
    ((name, options),) = split_pipeline(format_pass(made))
    assert name == made.name
    assert build(Everything, options) == made


@given(st.lists(instances(PASSES), max_size=5))
def test_pipelines_of_all_registered_passes_round_trip(made: list[Pass]) -> None:
    pipeline = Pipeline(tuple(made))
    text = str(pipeline)
    assert Pipeline.parse(text) == pipeline
    assert str(Pipeline.parse(text)) == text


@given(instances([target_class(name) for name in registry.names(registry.TARGETS)]))
def test_targets_round_trip(made: Any) -> None:
    ((name, options),) = split_pipeline(format_pass(made), "target")
    assert build(target_class(name), options) == made


@pytest.mark.parametrize("cls", PASSES)
def test_defaults_are_not_printed(cls: type[Pass]) -> None:
    assert str(cls()) == cls.name
    assert Pipeline.parse(cls.name).passes == (cls(),)


def test_spaces_do_not_matter() -> None:
    text = " fold-pad , propagate-ranges{ method=mse   q=99 } ,fold-pad"
    assert str(Pipeline.parse(text)) == "fold-pad,propagate-ranges{method=mse q=99.0},fold-pad"


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("fold-pad,", 9),
        (",fold-pad", 1),
        ("fold-pad,,fold-pad", 10),
        ("fold-pad fold-pad", 9),
        ("fold-pad{", 9),
        ("fold-pad{x=1", 9),
        ("fold-pad}", 9),
        ("fold-pad{x}", 10),
        ("fold-pad{x=}", 10),
        ("fold-pad{x=1 x=2}", 14),
        ('fold-pad{x="1}', 9),
        ("Fold-Pad", 1),
        ("fold--pad", 5),
        ("fold_pad", 5),
    ],
)
def test_wrong_grammar_is_refused_at_its_column(text: str, column: int) -> None:
    with pytest.raises(QCompilerError) as caught:
        Pipeline.parse(text)
    assert caught.value.code == "QC0508"
    assert f"column {column}:" in caught.value.problem


@given(st.text(alphabet="fold-pad{}=, \"\\x1'", max_size=24))
def test_any_text_is_read_or_refused_with_a_code(text: str) -> None:
    try:
        found = Pipeline.parse(text)
    except QCompilerError as error:
        code = error.code
    else:
        assert Pipeline.parse(str(found)) == found
        return
    assert code in ("QC0508", "QC0501", "QC0502")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("plan-memory{bach=2}", "did you mean batch?"),
        ("plan-memory{batch=two}", "give batch as int"),
        ("plan-memory{batch=1.5}", "give batch as int"),
        ("fold-pad{x=1}", "takes no options"),
        ("fold-requant{results=yes}", "give results as bool"),
        ("propagate-ranges{method=means}", "method='means' is none of"),
        ("quantize-weights{method=means}", "'minmax', 'mse'"),
    ],
)
def test_wrong_options_are_refused(text: str, part: str) -> None:
    with pytest.raises(QCompilerError, match=re.escape(part)) as caught:
        Pipeline.parse(text)
    assert caught.value.code == "QC0502"


@pytest.mark.parametrize("text", ['"a', "a,,b", ",", '"a"b'])
def test_wrong_values_are_refused(text: str) -> None:
    with pytest.raises(QCompilerError, match="QC0502"):
        build(Everything, {"names": text})


def test_a_missing_option_is_named() -> None:
    @dataclass(frozen=True)
    class Needy:
        name: ClassVar[str] = "needy"
        budget: float

    with pytest.raises(QCompilerError, match="needy lacks budget"):
        build(Needy, {})


def test_values_read_as_people_write_them() -> None:
    assert format_value(("a b", "c", "")) == '"a b",c,""'
    assert format_value(()) == "()"
    made = build(Everything, {"names": '"a,b",c', "kind": '"two words"', "label": '"none"'})
    assert (made.names, made.kind, made.label) == (("a,b", "c"), "two words", "none")
