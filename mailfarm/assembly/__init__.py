"""The composition root: the one place where rooms are put together, and where embedded or cluster is decided.

``mailfarm dev`` is every service in one process, ``mailfarm mx`` and so on one of them: the same ``Farm`` with more or
fewer services. Which stores they use is decided once, by URL, in ``stores``. A farm starts from the stores outwards, so
that nothing is taken in before there is a place for it, and stops from the listeners inwards, so that what was taken in
is finished or safe.
"""

from .background import clock, spawn
from .farm import Farm
from .operator import with_queue

__all__ = ["Farm", "clock", "spawn", "with_queue"]
