"""The table of cases (``cases.toml``), the document of threats, and two laws of the house."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from houses import COLLECTED

import mailfarm

HOUSE = Path(mailfarm.__file__).parent
ROOT = HOUSE.parent
CASES: dict[str, dict[str, str]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))
CLIENTS = ("sdk", "prove", "health.py")
"""What runs at a user's wish as a client of a mailfarm. It is no part of any service."""
HTTP_CLIENTS = (
    "httpx", "treq", "requests", "aiohttp", "urllib3", "urllib.request", "http.client", "ftplib", "smtplib",
    "xmlrpc.client", "twisted.web.client", "twisted.mail.smtp", "webbrowser", "twisted.web.xmlrpc",
)  # fmt: skip
CONNECTS = {"create_connection", "connectTCP", "connectSSL", "clientFromString", "TCP4ClientEndpoint",
            "TCP6ClientEndpoint", "HostnameEndpoint", "SSL4ClientEndpoint", "wrapClientTLS", "getaddrinfo"}  # fmt: skip
RUNS = {"eval", "exec", "__import__"}
UNSAFE = {"pickle", "marshal", "shelve", "yaml", "dill", "jsonpickle", "xml", "lxml"}


def plain(node: str) -> str:
    """A test's name, with however many backslashes its parameters are written."""
    return re.sub(r"\\+", r"\\", node)


def test_every_case_is_a_test_that_runs(request: pytest.FixtureRequest) -> None:
    """Each function is there; and of the files that are run together with this one, each case has been collected."""
    named = [plain(node) for cases in CASES.values() for node in cases.values()]
    assert len(named) > 100
    for node in named:
        file, _, name = node.partition("::")
        functions = {
            each.name for each in ast.walk(tree_of(file)) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name.partition("[")[0] in functions, node
    if any("::" in argument for argument in request.config.args):
        return  # single tests were asked for
    collected = {plain(name) for name in request.session.stash[COLLECTED]}
    # without any parameters, and without the last (how a dialog is cut)
    collected |= {re.sub(r"-[^-]*\]$", "]", node) for node in collected} | {
        node.partition("[")[0] for node in collected
    }
    files = {node.partition("::")[0] for node in collected}
    assert [node for node in named if node.partition("::")[0] in files and node not in collected] == []


@lru_cache
def tree_of(file: str) -> ast.AST:
    """A file of tests, read."""
    return ast.parse((ROOT / file).read_text("utf-8"))


def test_each_attack_on_the_end_of_data_has_its_name() -> None:
    names = CASES["end-of-data"]
    assert sum(name.endswith("-too-big") for name in names) == 12
    assert all(name.removesuffix("-too-big") in names for name in names)


def test_the_document_names_cases_that_are_there() -> None:
    """``docs/security.md`` says of each threat which case tests it: as ``[section] case``."""
    text = (HOUSE / "docs" / "security.md").read_text("utf-8")
    said = re.findall(r"`\[([a-z-]+)\](?: ([a-z0-9-]+))?`", text)
    assert len(said) > 30
    assert [(section, case) for section, case in said if case and case not in CASES.get(section, {})] == []
    assert {section for section, _ in said} == set(CASES)


def test_the_relay_test_has_every_form() -> None:
    """Percent hack, bang path, quoted local part, source route, address literal (RFC 5321 §3.6, §4.1.2)."""
    text = (ROOT / "tests" / "services" / "test_mx.py").read_text("utf-8")
    table = text[text.index("RELAYS") : text.index("test_it_never_relays")]
    for form in (
        r"<[a-z]+%",
        r"<[a-z.]+![a-z]+@",
        r'\\?"[a-z]+@[a-z.]+\\?"@',
        r"<@[^>]+:[^>]+>",
        r"@\[127\.0\.0\.1\]>",
    ):
        assert re.search(form, table), form


def modules(*left_out: str) -> Iterator[tuple[Path, ast.AST]]:
    """The modules of the house, but some."""
    for path in sorted(HOUSE.rglob("*.py")):
        if path.relative_to(HOUSE).parts[0] not in left_out:
            yield path, ast.parse(path.read_text("utf-8"))


def asks_outside(path: Path, tree: ast.AST) -> Iterator[str]:
    """Where a module could open a connection to somebody it was told of."""
    stores = path.parent.name == "backends"  # those an operator's settings name
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{each.name}" for each in node.names)]
        for name in names:
            if any(name == client or name.startswith(f"{client}.") for client in HTTP_CLIENTS):
                yield f"{path.name}:{node.lineno}: {name}"
        word = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if word in CONNECTS and not stores:
            yield f"{path.name}:{getattr(node, 'lineno', 0)}: {word}"


def test_no_service_asks_the_outside() -> None:
    """No look at a link, a picture, a policy or a hook: whoever adds one writes the one guarded client for it, and lets
    that module alone pass here."""
    found = [each for path, tree in modules(*CLIENTS) for each in asks_outside(path, tree)]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import httpx",
        "from urllib import request",
        "import urllib.request",
        "from twisted.web.client import Agent",
        "def f(r):\n    r.connectTCP('evil.example', 80, None)",
        "from twisted.internet.endpoints import HostnameEndpoint\nHostnameEndpoint(1, 2, 3)",
        "import socket\nsocket.create_connection(('evil.example', 80))",
    ],
)
def test_the_law_about_the_outside_would_notice(source: str) -> None:
    assert list(asks_outside(HOUSE / "services" / "x.py", ast.parse(source)))


def test_nothing_is_run_that_was_data() -> None:
    """No eval, no pickle, no shell, no YAML or XML of a stranger's."""
    found = []
    for path, tree in modules("prove"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func
                name = (
                    called.id
                    if isinstance(called, ast.Name)
                    else called.attr
                    if isinstance(called, ast.Attribute)
                    else ""
                )
                if isinstance(called, ast.Name) and name in RUNS:
                    found.append(f"{path}:{node.lineno}: {name}")
                if any(word.arg == "shell" for word in node.keywords) or name in ("system", "popen"):
                    found.append(f"{path}:{node.lineno}: a shell")
            names = (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            found += [f"{path}: {name}" for name in names if name.partition(".")[0] in UNSAFE]
    assert found == []


def test_help_shows_the_threats(capsys: pytest.CaptureFixture[str]) -> None:
    from mailfarm import cli

    assert cli.main(["help", "security"]) == 0
    assert "What is not covered" in capsys.readouterr().out
