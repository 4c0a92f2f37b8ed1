"""The OpenAPI 3.1 document, made from the declared routes: what is not there is not routed, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mailfarm.accounts.token import SCOPES
from mailfarm.net.problems import KINDS, MEDIA_TYPE

from .routes import Gives, Operation
from .schemas import ID, SCHEMAS, named

_ALWAYS = ("bad-request", "unknown-name", "foreign-origin", "uri-too-long", "wrong-host", "internal-error", "stopping")
_BODY = ("invalid-json", "invalid-value", "body-too-large", "not-json")
_TOKEN = ("unauthenticated", "scope-missing", "unavailable")


def document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.template, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailfarm",
            "version": version,
            "summary": "Mailboxes for tests: make one, send to it, wait for what comes",
            "description": (
                "Ids are letters and digits, ordered by time. Each change of a mailbox has the mailbox's next number; "
                "the last one considered for an answer is its `cursor`, and `after=cursor` goes on from there without "
                "missing any. Errors are problems (RFC 9457). Bodies are `application/json` and nothing else."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"Not asked for where MAILFARM_API_AUTH=none. Scopes: {', '.join(SCOPES)}.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.name.partition("_")[0]],
        "parameters": [*_path(operation), *_query(operation)],
        "responses": {**{str(g.status): _good(g) for g in operation.gives}, **_problems(operation)},
        # an empty requirement beside the token's: a farm may ask for none
        "security": [{}, {"token": [operation.scope]}] if operation.scope else [],
    }
    if operation.about:
        found["description"] = operation.about
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": operation.body.schema()}},
        }
    return found


def _path(operation: Operation) -> list[dict[str, Any]]:
    schemas = {"id": ID, "n": {"type": "integer", "minimum": 0}, "name": {"type": "string", "enum": list(KINDS)}}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in schemas.items()
        if f"{{{name}}}" in operation.template
    ]


def _query(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": field.name, "in": "query", "required": False, "description": field.about, "schema": field.schema()}
        for field in operation.query
    ]


def _good(gives: Gives) -> dict[str, Any]:
    about = gives.about or {200: "As asked.", 201: "Made.", 204: "Done."}[gives.status]
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in gives.types}
    if gives.schema:
        content = {"application/json": {"schema": named(gives.schema)}, **content}
    return {"description": about, "content": content} if content else {"description": about}


def _problems(operation: Operation) -> dict[str, Any]:
    names = [*_ALWAYS, *operation.problems]
    if operation.scope:
        names += _TOKEN
    if operation.query or operation.body is not None:
        names.append("invalid-value")
    if operation.body is not None:
        names += _BODY
    if "{id}" in operation.template:
        names.append("not-found")
    by_status: dict[int, list[str]] = {}
    for name in dict.fromkeys(names):
        by_status.setdefault(KINDS[name].status, []).append(name)
    return {
        str(status): {
            "description": "; ".join(f"{name}: {KINDS[name].title.lower()}" for name in kinds),
            "content": {MEDIA_TYPE: {"schema": named("Problem")}},
        }
        for status, kinds in sorted(by_status.items())
    }
