"""From what the rooms of the house raise to what HTTP says. Bland outside, full in the log."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoRoute

from mailfarm.errors import Conflict, CursorTooOld, Invalid, NotFound, QueueFull, QueueUnavailable, Temporary
from mailfarm.net.problems import RETRY_AFTER, Problem

from .answering import write_problem

log = Logger()

AGAIN = {"Retry-After": RETRY_AFTER}

_NAMES = frozenset(
    {"address", "after", "before", "contains", "count", "ends_at", "exact", "from", "kind", "lifetime", "limit"}
    | {"retention", "starts_at", "subject", "to"}
)
"""Parameters and members with which the text of an ``Invalid`` may begin."""


def problem_of(error: BaseException, incident: Callable[[], str]) -> Problem:
    """The problem an error is told as. ``incident`` makes the id by which the log knows an unexpected one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, NotFound):
        return Problem("not-found", str(error))
    if isinstance(error, Conflict):
        return Problem("conflict", str(error))
    if isinstance(error, CursorTooOld):
        return Problem("cursor-too-old", str(error), oldest=error.oldest, cursor=error.last)
    if isinstance(error, Invalid):
        name = str(error).partition(" ")[0]
        if name in _NAMES:
            return Problem("invalid-value", str(error), name=name)
        return Problem("invalid-value", str(error))
    if isinstance(error, QueueFull | QueueUnavailable):
        log.warn("The queue does not answer: {error}", error=error)
        return Problem("queue-unavailable", "the queue does not answer; try again", headers=AGAIN)
    if isinstance(error, Temporary):
        log.warn("The database does not answer: {error}", error=error)
        return Problem("unavailable", "the database does not answer; try again", headers=AGAIN)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return Problem("method-not-allowed", f"this path takes {allowed}", headers={"Allow": allowed})
    if isinstance(error, NoRoute | HTTPException):
        return Problem("no-such-route", "there is nothing at this path; see /v1/openapi.json")
    return Problem(
        "internal-error", "an error inside mailfarm; the log has it under this incident", incident=incident()
    )


def answer_failure(request: Request, failure: Failure, incident: Callable[[], str]) -> None:
    """Answer with the problem of a failure, and log it if nobody expected it. The caller finishes the request."""
    problem = problem_of(failure.value, incident)
    if problem.kind.name == "internal-error":
        log.failure(
            "Incident {incident}: {method} {path} failed",
            failure,
            incident=problem.members["incident"],
            method=request.method.decode("ascii", "replace"),
            path=request.path.decode("ascii", "replace"),
        )
    write_problem(request, problem)
