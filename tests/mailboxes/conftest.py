"""A house with a database of its own, on each engine."""

from mailbox_house import house as house
