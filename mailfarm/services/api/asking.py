"""What a request asks for: query parameters and JSON bodies, by declarations that are also the OpenAPI document.

A parameter or member nobody declared is refused, not passed over: a misspelt ``subjekt=`` would otherwise wait for
any mail at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from mailfarm.net.problems import Problem

Type = Literal["text", "integer", "number", "boolean", "ids", "moment"]
MAX_TEXT = 1000
MAX_IDS = 500
MAX_ID = 100
"""Characters of what may be an id: those there are have fewer."""
MAX_PARAMETERS = 50
LARGEST = 2**53 - 1  # what every JSON reader counts to exactly (RFC 8259 §6)


@dataclass(frozen=True, slots=True)
class Field:
    """One query parameter or one member of a body.

    ``least`` and ``most`` bound numbers, the length of texts and the number of ids. ``nullable`` is for members only,
    ``required`` for parameters.
    """

    name: str
    type: Type
    about: str
    default: Any = None
    least: int = 0
    most: int = LARGEST
    choices: tuple[str, ...] = ()
    nullable: bool = False
    required: bool = False
    example: Any = None

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the value."""
        found: dict[str, Any]
        if self.type == "text":
            found = {"type": "string", "maxLength": min(self.most, MAX_TEXT)}
            if self.choices:
                found = {"type": "string", "enum": list(self.choices)}
        elif self.type == "moment":
            found = {"type": "string", "format": "date-time"}
        elif self.type == "ids":
            found = {
                "type": "array",
                "items": {"type": "string", "maxLength": MAX_ID},
                "minItems": 1,
                "maxItems": MAX_IDS,
            }
        elif self.type == "boolean":
            found = {"type": "boolean"}
        else:
            found = {"type": self.type, "minimum": self.least, "maximum": self.most}
        if self.nullable:
            found["type"] = [found["type"], "null"]
        if self.default is not None:
            found["default"] = self.default
        if self.example is not None:
            found["examples"] = [self.example]
        return found

    def check(self, value: Any) -> Any:
        """The value, or raise the problem that names what is wrong with it."""
        if value is None and self.nullable:
            return None
        kinds: dict[Type, tuple[type, ...]] = {
            "text": (str,),
            "moment": (str,),
            "ids": (list,),
            "boolean": (bool,),
            "integer": (int,),
            "number": (int, float),
        }
        right = isinstance(value, kinds[self.type]) and (self.type == "boolean" or not isinstance(value, bool))
        if not right:
            raise self._wrong(f"must be {self._words()}")
        if self.type in ("integer", "number") and not self.least <= value <= self.most:
            raise self._wrong(f"must be from {self.least} to {self.most}")
        if self.type == "text" and len(value) > min(self.most, MAX_TEXT):
            raise self._wrong(f"must be at most {min(self.most, MAX_TEXT)} characters")
        if self.choices and value not in self.choices:
            raise self._wrong(f"must be {' or '.join(self.choices)}")
        if self.type == "ids":
            if not 1 <= len(value) <= MAX_IDS or not all(isinstance(one, str) and len(one) <= MAX_ID for one in value):
                raise self._wrong(f"must be a list of 1 to {MAX_IDS} ids")
            return tuple(value)
        return value

    def read(self, text: str) -> Any:
        """The value of a query parameter."""
        if self.type == "boolean":
            if text not in ("true", "false"):
                raise self._wrong("must be true or false")
            return text == "true"
        if self.type in ("integer", "number"):
            try:
                # ASCII digits only: int() also takes blanks, underscores and digits of other scripts
                if not text.isascii() or not text.replace(".", "", 1).replace("-", "", 1).isdigit() or len(text) > 20:
                    raise ValueError
                return self.check(int(text) if self.type == "integer" else float(text))
            except ValueError:
                raise self._wrong(f"must be {self._words()}") from None
        return self.check(text)

    def _words(self) -> str:
        return {
            "text": "a text",
            "moment": "a time such as 2026-01-31T12:00:00Z",
            "ids": "a list of ids",
            "boolean": "true or false",
            "integer": "a whole number",
            "number": "a number",
        }[self.type]

    def _wrong(self, rule: str) -> Problem:
        return Problem("invalid-value", f"{self.name} {rule}", name=self.name)


@dataclass(frozen=True, slots=True)
class Body:
    """The members a JSON body may have. ``required`` names those it must have."""

    members: tuple[Field, ...]
    required: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the body."""
        found: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {one.name: one.schema() | {"description": one.about} for one in self.members},
        }
        if self.required:
            found["required"] = list(self.required)
        return found


def read_query(raw: bytes, fields: Sequence[Field]) -> dict[str, Any]:
    """The values of the query ``raw`` (what stands behind ``?``), with the default of each one that is not there.
    Raises Problem, also where a required one is not there, or empty."""
    values = {field.name: field.default for field in fields}
    known = {field.name: field for field in fields}
    _read_pairs(raw, known, values)
    for field in fields:
        if field.required and values[field.name] in (None, ""):
            raise Problem("invalid-value", f"{field.name} is missing", name=field.name)
    return values


def _read_pairs(raw: bytes, known: Mapping[str, Field], values: dict[str, Any]) -> None:
    if not raw:
        return
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS, separator="&"
        )
    except UnicodeDecodeError:
        raise Problem("invalid-value", "the query is not percent-encoded UTF-8") from None
    except ValueError:
        raise Problem("invalid-value", f"the query has more than {MAX_PARAMETERS} parameters") from None
    given: set[str] = set()
    for name, text in pairs:
        if name not in known:
            raise _unknown("query parameter", name, known)
        if name in given:
            raise Problem("invalid-value", f"{name} is given twice", name=name)
        given.add(name)
        values[name] = known[name].read(text)


def read_body(raw: bytes, body: Body) -> dict[str, Any]:
    """The members given, and only those: what is not there was not said."""
    found = read_json(raw)
    if not isinstance(found, dict):
        raise Problem("invalid-value", "the body must be a JSON object")
    known = {member.name: member for member in body.members}
    for name in found:
        if name not in known:
            raise _unknown("member", name, known)
    for name in body.required:
        if name not in found:
            raise Problem("invalid-value", f"{name} is missing", name=name)
    return {name: known[name].check(value) for name, value in found.items()}


def read_json(raw: bytes) -> Any:
    """JSON, strictly: UTF-8, no member twice, no NaN, no half of a surrogate pair. Raises Problem, saying where."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem("invalid-json", f"octet {error.start} of the body is not UTF-8", octet=error.start) from None
    try:
        found = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
        # "\\ud800" alone is JSON, but no text: it cannot be stored or sent (RFC 8259 §8.2)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Problem("invalid-json", f"{error.msg} at {where}", line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise Problem("invalid-json", "the body is nested too deep") from None
    except UnicodeEncodeError:
        raise Problem("invalid-json", "a text of the body holds half of a surrogate pair") from None
    except ValueError:  # int() refuses thousands of digits
        raise Problem("invalid-json", "a number of the body is too long") from None
    return found


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Problem("invalid-json", f"member {_shown(name)} is there twice", name=_shown(name))
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise Problem("invalid-json", f"{name} is not JSON")


def _unknown(what: str, name: str, known: Mapping[str, Field]) -> Problem:
    names = sorted(known)
    there = f"there are {', '.join(names)}" if names else "there are none"
    return Problem("unknown-name", f"there is no {what} {_shown(name)}; {there}", name=_shown(name), known=names)


def _shown(name: str) -> str:
    """A name as a problem may repeat it: short, and text."""
    return name[:100].encode("utf-8", "replace").decode("utf-8")
