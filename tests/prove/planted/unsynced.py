"""mailfarm with ``PRAGMA synchronous=OFF``: what it confirms was not synced. Nothing but the order oracle can tell."""

import sys

from mailfarm.__main__ import main
from mailfarm.backends import sqlite_open

connect = sqlite_open.connect
sqlite_open.connect = lambda path, **how: connect(path, **{**how, "durable": False})

if __name__ == "__main__":
    sys.exit(main())
