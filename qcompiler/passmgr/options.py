"""Options of passes and targets as text: ``name{option=value other=1,2}``.

Values are typed by the dataclass fields: int, float, bool, str, tuples of these with commas between
(``()`` is the empty one), and ``none`` for optional ones. A string of other characters than
letters, digits, ``_``, ``.``, ``:``, ``+`` and ``-`` stands in double quotes, where a backslash
comes before a quote or a backslash. Formatting prints only the options that differ from their
defaults.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from qcompiler.errors import QCompilerError, nearest

_NAME = re.compile(r"[a-z0-9]+(?:[-.+][a-z0-9]+)*")
_QUOTED = r'"(?:[^"\\]|\\[\s\S])*"'
_OPTION = re.compile(rf'([a-z_][a-z0-9_]*)=((?:{_QUOTED}|[^\s}}"])+)')
_BRACES = re.compile(rf'(?:{_QUOTED}|[^"}}])*')
_ELEMENT = re.compile(rf'(?:{_QUOTED}|[^,"])+')
_PLAIN = re.compile(r"[A-Za-z0-9_.:+\-]+")


def format_pass(value: Any) -> str:
    """Returns the text of a frozen dataclass with a ``name``, as ``allocate-bits{budget=4.5}``."""
    shown = [
        f"{f.name}={format_value(getattr(value, f.name))}"
        for f in fields(value)
        if getattr(value, f.name) != _default(f)
    ]
    return f"{value.name}{{{' '.join(shown)}}}" if shown else str(value.name)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    return MISSING


def format_value(value: Any) -> str:
    """Returns the text of an option's value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(format_value(v) for v in value) or "()"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value != "none":
            return value
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def split_pipeline(text: str, what: str = "pipeline") -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the name and the raw options of each element of a pipeline's text.

    ``what`` is what errors call the text.

    Raises:
        QCompilerError: QC0508 when the text does not follow the grammar.
    """
    position, text = 0, text.strip()
    while position < len(text):
        match = _NAME.match(text, position)
        if match is None:
            raise _grammar_error(text, position, what)
        name, position = match.group(), match.end()
        options: dict[str, str] = {}
        if text[position : position + 1] == "{":
            end = _closing(text, position, what)
            options = _split_options(text, position + 1, end, what)
            position = end + 1
        yield name, options
        rest = re.compile(r"\s*,\s*|\s*$").match(text, position)
        if rest is None or (rest.end() == len(text) and "," in rest.group()):
            raise _grammar_error(text, position, what)
        position = rest.end()


def _closing(text: str, opening: int, what: str) -> int:
    match = _BRACES.match(text, opening + 1)
    if match is None or text[match.end() : match.end() + 1] != "}":
        raise _grammar_error(text, opening, what)
    return match.end()


def _split_options(text: str, start: int, end: int, what: str) -> dict[str, str]:
    options: dict[str, str] = {}
    position = start
    while position < end:
        if text[position].isspace():
            position += 1
            continue
        match = _OPTION.match(text, position, end)
        if match is None or match.group(1) in options:
            raise _grammar_error(text, position, what)
        options[match.group(1)] = match.group(2)
        position = match.end()
    return options


def _grammar_error(text: str, position: int, what: str) -> QCompilerError:
    more = ",name,..." if what == "pipeline" else ""
    return QCompilerError(
        "QC0508",
        f"cannot read the {what} at column {position + 1}: {text[position : position + 20]!r}",
        remedy=f"write name{{option=value option=value}}{more}",
    )


def build(cls: type[Any], options: Mapping[str, str]) -> Any:
    """Returns an instance of a frozen dataclass with options given as text.

    Raises:
        QCompilerError: QC0502 for an unknown option, a missing one, or a value of another type.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    for option in options:
        if option not in known:
            raise QCompilerError(
                "QC0502",
                f"{cls.name} has no option {option!r}",
                remedy=nearest(option, known) if known else f"{cls.name} takes no options",
            )
    missing = [n for n, f in known.items() if _default(f) is MISSING and n not in options]
    if missing:
        raise QCompilerError(
            "QC0502", f"{cls.name} lacks {', '.join(missing)}", remedy="give the missing options"
        )
    values = {}
    for option, text in options.items():
        try:
            values[option] = _parse_value(text, hints[option])
        except ValueError:
            raise QCompilerError(
                "QC0502",
                f"{cls.name}: {option}={text} is no {_type_name(hints[option])}",
                remedy=f"give {option} as {_type_name(hints[option])}",
            ) from None
    try:
        return cls(**values)
    except ValueError as error:
        raise QCompilerError("QC0502", f"{cls.name}: {error}", remedy="correct the value") from None


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _parse_value(text: str, hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        choices = [a for a in get_args(hint) if a is not type(None)]
        if text == "none" and len(choices) < len(get_args(hint)):
            return None
        for choice in choices:
            try:
                return _parse_value(text, choice)
            except ValueError:
                continue
        raise ValueError(text)
    if get_origin(hint) is tuple:
        if text == "()":
            return ()
        parts = _ELEMENT.findall(text)
        if ",".join(parts) != text:
            raise ValueError(text)
        return tuple(_parse_value(part, get_args(hint)[0]) for part in parts)
    if get_origin(hint) is Literal:
        known = {format_value(choice): choice for choice in get_args(hint)}
        return known[text] if text in known else _known_choice(_unquoted(text), known)
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if hint is int or hint is float:
        return hint(text)
    if hint is str:
        return _unquoted(text)
    raise ValueError(text)


def _known_choice(text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(text)
    return choices[text]


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    if not re.fullmatch(_QUOTED, text):
        raise ValueError(text)
    return re.sub(r"\\([\s\S])", r"\1", text[1:-1])
