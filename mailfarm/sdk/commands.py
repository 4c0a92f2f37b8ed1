"""The client's verbs on the command line: ``send``, ``wait``, ``list`` and ``show``."""

from __future__ import annotations

import argparse
from typing import Any


def add_parsers(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add a parser for each verb; each sets ``run``, a callable from the parsed arguments to the exit code."""
