"""GET /v1/health, /v1/version, /v1/openapi.json, /v1/problems, /v1/problems/{name}: the service about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from klein import Klein

from mailfarm.net.problems import KINDS, Kind, Problem

from .access import Access
from .answering import REVALIDATE, Answer, tag_of
from .routes import Ask, Gives, Resource, route


class About(Resource):
    """What anybody may ask, token or not."""

    app = Klein()

    def __init__(
        self,
        access: Access,
        version: str,
        stopping: Callable[[], bool],
        smtp: Callable[[], Mapping[str, str]] = dict,
        inbox: str = "",
    ) -> None:
        super().__init__(access)
        self._version = version
        self._smtp = smtp
        self._inbox = inbox
        self._stopping = stopping
        self.document: dict[str, Any] = {}

    @route(app, "GET", "/v1/health", "Is it alive", name="getHealth", gives=Gives(200, "Health"))
    async def health(self, ask: Ask) -> Answer:
        """Answers as long as the process does. `/readyz` says whether its database and queue answer too."""
        return Answer({"status": "stopping" if self._stopping() else "ok"})

    @route(app, "GET", "/v1/version", "Which version is it", name="getVersion", gives=Gives(200, "Version"))
    async def version(self, ask: Ask) -> Answer:
        """The name and version of the program, where it takes mail to be captured, and which mailbox takes what is for
        no other."""
        more = {"smtp": dict(self._smtp()), "inbox": self._inbox}
        told = {name: value for name, value in more.items() if value}
        return Answer({"name": "mailfarm", "version": self._version, **told})

    @route(
        app, "GET", "/v1/openapi.json", "Read this document", name="getOpenApi", gives=Gives(200, "OpenApi", etag=True)
    )
    async def openapi(self, ask: Ask) -> Answer:
        """OpenAPI 3.1."""
        return Answer(self.document, cache=REVALIDATE, etag=tag_of(orjson.dumps(self.document)))

    @route(
        app, "GET", "/v1/problems", "List the kinds of problems", name="listProblems", gives=Gives(200, "ProblemKinds")
    )
    async def problems(self, ask: Ask) -> Answer:
        """Every `type` a problem can have."""
        return Answer({"problems": [_form(kind) for kind in KINDS.values()]}, cache=REVALIDATE)

    @route(
        app,
        "GET",
        "/v1/problems/<name>",
        "Read about a kind of problem",
        name="getProblem",
        gives=Gives(200, "ProblemKind"),
        problems=("not-found",),
    )
    async def problem(self, ask: Ask) -> Answer:
        """What the `type` of a problem links to."""
        kind = KINDS.get(ask.path["name"])
        if kind is None:
            raise Problem("not-found", "there is no such kind of problem; /v1/problems lists them")
        return Answer(_form(kind), cache=REVALIDATE)


def _form(kind: Kind) -> dict[str, Any]:
    return {"type": f"/v1/problems/{kind.name}", "title": kind.title, "status": kind.status, "advice": kind.advice}
