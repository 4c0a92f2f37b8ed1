"""The pytest plugin: fixtures ``farm`` and ``inbox``."""

from __future__ import annotations
