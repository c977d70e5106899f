"""Scheme strings and override rules: what is read, and what is refused with which remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.api import resolve_target
from qcompiler.errors import QCompilerError
from qcompiler.ir.overrides import Override
from qcompiler.ir.scheme import ACTIVATION_BITS, GROUPS, WEIGHT_BITS, Scheme

SCHEMES = st.builds(
    Scheme,
    st.sampled_from(WEIGHT_BITS[:-1]),
    st.sampled_from([None, *GROUPS]),
    st.sampled_from(ACTIVATION_BITS),
)


@given(SCHEMES)
def test_schemes_round_trip(scheme: Scheme) -> None:
    assert Scheme.parse(str(scheme)) == scheme


def test_parts_of_a_scheme() -> None:
    read = [Scheme.parse(text, whole=False) for text in ("w4", "w2g32", "a16", "float", "w8a8")]
    assert read == [
        Scheme(weight=4),
        Scheme(weight=2, group=32),
        Scheme(activation=16),
        Scheme(is_float=True),
        Scheme(8, None, 8),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("w4", "as w4a8"),
        ("a8", "as w8a8"),
        ("float", "w4g64a8"),
        ("w4a8x", "did you mean w4a8"),
        ("", "w4g64a8"),
        ("W4A8", "w4g64a8"),
        ("w7a8", "the nearest is 6"),
        ("w4a5", "the nearest is 4"),
        ("w4g60a8", "the nearest is 64"),
        ("w8g64a8", "use w8a8"),
        ("w99999a8", "is no scheme"),
    ],
)
def test_wrong_schemes_are_refused_with_the_nearest(text: str, says: str) -> None:
    with pytest.raises(QCompilerError, match="QC0304") as caught:
        Scheme.parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(("scheme", "legal"), [("w4a16", "4, 8")])
@pytest.mark.parametrize("target", ["cpu", "reference", "armv8-a"])
def test_what_a_target_does_not_run(target: str, scheme: str, legal: str) -> None:
    with pytest.raises(QCompilerError, match="QC0305") as caught:
        Scheme.parse(scheme).check(resolve_target(target))
    assert legal in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "kind", "pattern", "part"),
    [
        ("blocks.3.*=w8a8", "name", "blocks.3.*", None),
        ("stem:activation=a4", "name", "stem", "activation"),
        ("op:linear:weight=w4g64", "op", "linear", "weight"),
        ("line:net.py:42=float", "line", "net.py:42", None),
        ("between:stem,head=w4", "between", "stem,head", None),
    ],
)
def test_overrides_are_read(text: str, kind: str, pattern: str, part: str | None) -> None:
    rule = Override.parse(text)
    assert (rule.kind, rule.pattern, rule.part) == (kind, pattern, part)


@pytest.mark.parametrize(
    "text",
    [
        *("w4", "=w4", "head=", "head=w4x", "head:weight=a8", "head:weight=float"),
        *("ops:linear=w4", "op:=w4", "between:stem=w4", "between:a,b,c=w4", "head:activation=w4"),
    ],
)
def test_wrong_overrides_are_refused(text: str) -> None:
    with pytest.raises(QCompilerError, match="QC0304"):
        Override.parse(text)
