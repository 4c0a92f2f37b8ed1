"""Values that are made for every message.

``dataclass(frozen=True)`` sets each field by way of ``object.__setattr__``, because its own refuses: 1.1 µs for ten
fields, beside 0.2. A message is some twenty-five values on its way from MAIL to its row, 14 µs in all.

So a ``value`` is frozen for the type checker, which refuses every assignment, and not for the interpreter. What is made
seldom is a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass with slots, compared and hashed by its fields, whose fields nobody sets once it is made."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
