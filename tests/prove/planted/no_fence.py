"""mailfarm with a defect: the queue does not look at the fence. ``python no_fence.py COMMAND…`` is ``mailfarm``."""

import sys
from hashlib import sha1

from mailfarm.__main__ import main
from mailfarm.backends.redis_link import Script

_read = Script.read


def read(name: str, shared: str = "") -> Script:
    text = _read(name, shared).text
    for good in ("turn.fence == fence", "turn.fence == ARGV[first + 2 * at - 1]"):
        text = text.replace(good, "true")
    return Script(name, text, sha1(text.encode()).hexdigest())


Script.read = read

if __name__ == "__main__":
    sys.exit(main())
