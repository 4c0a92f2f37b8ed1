"""The tree of the API: which resource answers which path.

/v1/events                the WebSocket, where `live` runs in this process
/v1/...                   the REST resources, each a Klein app, put together into one (`rest`)
/healthz /readyz /metrics about the process
/...                      the web inbox
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.resource import Resource as WebResource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from mailfarm.net.problems import Problem

from .answering import write_problem
from .counting import Counts
from .errors import answer_failure
from .line import Line


def put_together(
    instances: Iterable[Any], counts: Counts, incident: Callable[[], str], line: Line | None = None
) -> Klein:
    """One Klein app that has the routes of all of these; with a ``line`` each request waits there for its turn."""
    whole = Klein()
    whole.url_map.merge_slashes = False  # or //evil.example would be answered with a redirect there
    for instance in instances:
        bound = instance.app
        for rule in bound.url_map.iter_rules():
            methods = sorted(set(rule.methods or ()) - {"HEAD"})  # werkzeug adds HEAD to GET by itself
            name = f"{type(instance).__name__} {rule.endpoint}"
            whole.route(rule.rule, methods=methods, endpoint=name)(_to(bound, rule.endpoint, rule.rule, counts, line))

    @whole.handle_errors(Exception)
    def failed(request: Request, failure: Failure) -> None:
        answer_failure(request, failure, incident)

    return whole


def _to(bound: Klein, endpoint: str, path: str, counts: Counts, line: Line | None) -> Callable[..., Any]:
    def handle(request: Any, **segments: Any) -> Any:
        counts.watch(request, path)
        if line is None:
            return bound.execute_endpoint(endpoint, request, **segments)
        return line.answer(request, lambda: bound.execute_endpoint(endpoint, request, **segments))

    return handle


@implementer(IResource)
class Root(WebResource):
    """Sends a request on by its path. ``pages`` are other resources by their exact path."""

    isLeaf = True

    def __init__(self, rest: Any, static: Klein | None, websocket: Any, pages: Mapping[bytes, Any]) -> None:
        super().__init__()
        self._rest = rest
        self._static = None if static is None else static.resource()
        self._websocket = websocket
        self._pages = pages

    def render(self, request: Any) -> Any:
        """See the module's docstring."""
        path = request.path
        if path == b"/v1/events" and self._websocket is not None:
            if (request.getHeader("upgrade") or "").lower() != "websocket" or request.method != b"GET":
                return _refuse(
                    request,
                    Problem("upgrade-required", "this path speaks WebSocket", headers={"Upgrade": "websocket"}),
                )
            answer = self._websocket.render(request)
            request.site.handed_over(request)
            return answer
        page = self._pages.get(path)
        if page is not None:
            return page.render(request)
        if self._static is None or path.startswith(b"/v1/") or path == b"/v1":
            return self._rest.render(request)
        return self._static.render(request)


def _refuse(request: Request, problem: Problem) -> Any:
    write_problem(request, problem)
    request.finish()
    return NOT_DONE_YET
