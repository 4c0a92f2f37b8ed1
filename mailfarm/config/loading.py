"""Reading the settings from environment variables and the files they name. See the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from mailfarm.errors import ConfigurationError

from .contradictions import ALL, contradictions
from .settings import GROUPS, Settings

CLIENT_VARIABLES = frozenset({"MAILFARM_URL", "MAILFARM_SMTP", "MAILFARM_TOKEN", "MAILFARM_TOKEN_FILE", "MAILFARM_CA"})
"""What the SDK and the client commands read; no service does."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable as the documentation shows it."""

    name: str
    group: str
    default: str
    help: str
    secret: bool


def variable_name(group: str, name: str) -> str:
    """``MAILFARM_HOSTNAME`` or ``MAILFARM_MX_LISTEN``."""
    return f"MAILFARM_{name.upper()}" if group == "farm" else f"MAILFARM_{group.upper()}_{name.upper()}"


def variables() -> tuple[Variable, ...]:
    """Every variable there is."""
    return tuple(
        Variable(variable_name(group, f.name), group, f.metadata["default"], f.metadata["help"], f.metadata["secret"])
        for group, cls in GROUPS.items()
        for f in fields(cls)
    )


def load(environ: Mapping[str, str], read_file: Callable[[str], str], services: Sequence[str] | None = ALL) -> Settings:
    """The settings ``environ`` asks for, to run ``services`` in one process; None: to run none of them, only what a
    value says by itself is checked. Raises ConfigurationError with every mistake, one line each."""
    mistakes: list[str] = []
    groups: dict[str, Any] = {}
    known: set[str] = set(CLIENT_VARIABLES)
    for group, cls in GROUPS.items():
        values: dict[str, Any] = {}
        for f in fields(cls):
            name = variable_name(group, f.name)
            known |= {name, f"{name}_FILE"}
            text = _text(environ, name, f.metadata["secret"], read_file, mistakes)
            if text is None:
                continue
            try:
                values[f.name] = f.metadata["parse"](text)
            except ValueError as error:
                show = f.metadata["show"] or repr
                shown = "its value" if f.metadata["secret"] else show(text)
                mistakes.append(f"{name}: {shown} will not do: {error}")
        groups[group] = cls(**values)
    for name in sorted(environ):
        if name.startswith("MAILFARM_") and name not in known:
            near = get_close_matches(name, known, 1)
            mistakes.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    settings = Settings(**groups)
    if services is not None:
        mistakes += contradictions(settings, services)
    if mistakes:
        raise ConfigurationError(mistakes)
    return settings


def _text(
    environ: Mapping[str, str], name: str, secret: bool, read_file: Callable[[str], str], mistakes: list[str]
) -> str | None:
    path = environ.get(f"{name}_FILE")
    if path is None:
        return environ.get(name)
    if name in environ:
        mistakes.append(f"{name}: set it or {name}_FILE, not both")
        return None
    try:
        return read_file(path).removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        # who confuses the two has put the secret itself here
        shown = "the file it names (not shown; it takes a path)" if secret and not path.startswith("/") else path
        mistakes.append(f"{name}_FILE: cannot read {shown}: {getattr(error, 'strerror', None) or error}")
        return None
