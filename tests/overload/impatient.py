"""A mailfarm whose deadlines of HTTP are short enough for a test to wait for: ``impatient.py dev ...``."""

from __future__ import annotations

import sys

from mailfarm.cli import main
from mailfarm.net import http_site
from mailfarm.services.api import guard

guard.WITHIN = 3.0
http_site.PATIENCE, http_site.LOOKS = 3.0, 0.5

if __name__ == "__main__":
    sys.exit(main())
