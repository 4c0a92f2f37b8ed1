"""``python -m mailfarm`` is ``mailfarm``."""

import sys

from .cli import main

sys.exit(main())
