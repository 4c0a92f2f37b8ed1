"""The OpenAPI document, the problems, the web inbox: what the service says about itself."""

import re
from pathlib import Path

import jsonschema_rs
import pytest
import pytest_twisted
from farm_api import Browser
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.web.resource import Resource as TwistedResource

from mailfarm.net.http import Status
from mailfarm.net.problems import KINDS
from mailfarm.services.api.answering import accepts_gzip, attachment, matches
from mailfarm.services.api.service import RESOURCES
from mailfarm.services.api.static import POLICY

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_every_route_is_in_the_document_and_nothing_else_is(ask):
    document = (await ask("GET", "/v1/openapi.json")).json
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    routed = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for resource in RESOURCES
        for rule in resource.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }
    assert told == routed
    assert len(routed) > 20


@ensure
async def test_the_document_is_whole(ask):
    answer = await ask("GET", "/v1/openapi.json")
    document = answer.json
    names = set(re.findall(r'"#/components/schemas/(\w+)"', answer.body.decode()))
    assert names <= set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    ids = [one["operationId"] for item in document["paths"].values() for one in item.values()]
    assert len(set(ids)) == len(ids)
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation["summary"]
            assert operation["description"]
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert "500" in operation["responses"]
    again = await ask("GET", "/v1/openapi.json", if_none_match=answer.header("etag"))
    assert (again.status, again.body) == (304, b"")


def test_the_document_tells_of_the_websocket_and_the_pages_where_they_are(farm):
    registry = CollectorRegistry()
    plain = farm.api().document["paths"]
    whole = farm.api(status=Status(registry, {}, reactor), websocket=TwistedResource()).document["paths"]
    assert set(whole) - set(plain) == {"/healthz", "/readyz", "/metrics", "/v1/events"}
    assert {"101", "426"} <= set(whole["/v1/events"]["get"]["responses"])


def test_the_document_has_what_a_client_is_generated_from(farm):
    paths = farm.api().document["paths"]
    ids = {one["operationId"] for item in paths.values() for one in item.values()}
    assert {"createMailbox", "listMessages", "listEvents", "waitForMessages", "listRefusals"} <= ids
    assert all(re.fullmatch("[a-z]+[A-Z][A-Za-z]+", one) for one in ids)
    wait = paths["/v1/mailboxes/{id}/wait"]["get"]["responses"]
    assert wait["409"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/WaitProblem")
    late = wait["408"]["content"]["application/problem+json"]["schema"]["anyOf"]  # the request, or the mail
    assert [one["$ref"].rpartition("/")[2] for one in late] == ["Problem", "WaitProblem"]
    events = paths["/v1/mailboxes/{id}/events"]["get"]["responses"]
    assert events["410"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/CursorProblem")
    assert "Retry-After" in events["503"]["headers"]
    assert "Location" in paths["/v1/mailboxes"]["post"]["responses"]["201"]["headers"]
    raw = paths["/v1/messages/{id}/raw"]["get"]["responses"]
    assert "ETag" in raw["200"]["headers"]
    assert "304" in raw


@ensure
async def test_each_problem_has_a_page(ask):
    listed = (await ask("GET", "/v1/problems")).json["problems"]
    assert len(listed) == len(KINDS)
    for kind in listed:
        assert "`" not in kind["title"] + kind["advice"]
        assert (await ask("GET", kind["type"])).json == kind
    assert (await ask("GET", "/v1/problems/none")).status == 404


@ensure
async def test_health_and_version(ask):
    assert (await ask("GET", "/v1/health")).json == {"status": "ok"}
    assert (await ask("GET", "/v1/version")).json == {"name": "mailfarm", "version": "0.1.0"}


@ensure
async def test_the_inbox_is_served_with_a_strict_policy(ask):
    page = await ask("GET", "/")
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert page.header("content-security-policy") == POLICY
    assert "unsafe" not in POLICY
    assert (await ask("GET", "/", if_none_match=page.header("etag"))).status == 304
    assert (await ask("GET", "/app.js")).header("content-type") == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/.secret.txt",
        "/../farm_api.py",
        "/%2e%2e/web/index.html",
        "/..%2fweb%2findex.html",
        "/%2e%2e%2f%2e%2e%2fREADME.txt",
        "/index.html/",
        "/index.html%00.js",
        "/web",
        "/%5c..%5cindex.html",
        "/a/" * 500 + "index.html",
        "/" + "a" * 5000 + ".html",
        "/etc/passwd",
    ],
)
@ensure
async def test_nothing_but_its_files_is_served(ask, path):
    assert (await ask("GET", path)).status == 404


@ensure
async def test_a_link_out_of_the_folder_is_not_followed(farm, tmp_path):
    (tmp_path / "outside.txt").write_text("secret")
    web = tmp_path / "web"
    web.mkdir()
    (web / "link.txt").symlink_to(tmp_path / "outside.txt")
    assert (await Browser(farm.api(web=web))("GET", "/link.txt")).status == 404


def test_every_file_of_the_inbox_is_of_a_type_we_serve():
    from mailfarm.services.api.static import _TYPES

    web = Path(__file__).parents[2] / "mailfarm" / "web"
    files = [path for path in web.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix not in _TYPES] == []


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.pdf", 'attachment; filename="a.pdf"'),
        ("", "attachment"),
        ("..", "attachment"),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("C:\\x\\run.exe", 'attachment; filename="run.exe"'),
        ('a"b\r\nX: y.txt', "attachment; filename=\"a_bX_ y.txt\"; filename*=UTF-8''a%22bX%3A%20y.txt"),
        ("grüße.txt", "attachment; filename=\"gr__e.txt\"; filename*=UTF-8''gr%C3%BC%C3%9Fe.txt"),
        ("gpj\u202e.exe", 'attachment; filename="gpj.exe"'),
        ("\ud800x", 'attachment; filename="x"'),
        ("a%00;b", "attachment; filename=\"a_00_b\"; filename*=UTF-8''a%2500%3Bb"),
    ],
)
def test_a_strangers_filename_cannot_hurt(name, header):
    assert attachment(name) == header


def test_a_long_filename_keeps_its_end():
    assert attachment("x" * 1000 + ".txt").endswith('.txt"')
    assert len(attachment("ü" * 1000)) < 1200


@pytest.mark.parametrize(
    ("header", "yes"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("br, GZIP", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0.1", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
    ],
)
def test_accept_encoding(header, yes):
    assert accepts_gzip(header) is yes


def test_if_none_match():
    assert matches('"a", W/"b"', "b")
    assert matches("*", "b")
    assert not matches('"ab"', "b")
    assert not matches(None, "b")
