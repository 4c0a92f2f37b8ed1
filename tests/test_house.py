"""The rules of the house, held against the code: who may import whom, one vocabulary, nothing undocumented.

What these tests print when they fail is meant to be enough to mend it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mailfarm import cli, config

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "mailfarm"

# The rows, top first. A room may import what stands in rows above it, never its own row or one below; the modules of
# one room may import each other. ``tests/test_house.py`` is the only place where this table stands as code.
ROWS: tuple[tuple[str, ...], ...] = (
    ("values",),
    ("mail",),
    ("smtp",),
    ("ids", "errors", "limits", "backoff"),
    ("events",),
    ("ports", "config"),
    ("accounts", "domains", "mailboxes", "webhooks", "net", "backends"),
    ("inbound", "outbound"),
    ("services",),
    ("assembly",),
    ("process", "health", "schema_command", "queue_command"),
    ("cli",),
    ("__main__",),
)
FORBIDDEN_ALL_THE_SAME = {
    "inbound": {"net", "backends"},
    "outbound": {"net", "backends"},
    "services": {"backends"},
}
MAY_USE_THE_CLIENT = {"cli", "__main__", "prove"}  # the sdk stands beside the house; the command line opens its door
PURE = {room for row in (*ROWS[:6], ROWS[7]) for room in row} | {"accounts", "domains", "mailboxes", "webhooks"}
_DRIVERS = (
    "asyncio autobahn concurrent crochet ftplib getpass http httpx klein logging multiprocessing os platform psycopg "
    "psycopg2 queue random redis requests sched secrets select selectors shutil signal smtplib socket socketserver "
    "sqlite3 ssl subprocess sys tempfile threading time treq twisted txpostgres txredisapi txaio uuid"
)
IMPURE = frozenset(_DRIVERS.split())
IMPURE_CALLS = frozenset({"now", "utcnow", "today"})
STORES = ("mailfarm_queue_", "mailfarm_cache_", "mailfarm_bus_", "mailfarm_limiter_", "mailfarm_database_")
BAD_NAMES = frozenset({"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common"})
LONGEST = 400
LONG: dict[str, str] = {}
"""Files that may be longer than LONGEST lines, each with the reason."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def modules(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders or (HOUSE,) for path in folder.rglob("*.py"))


def dotted(path: Path) -> str:
    """``mailfarm.services.api`` for mailfarm/services/api/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file imports, wherever in it, as (line, absolute dotted name down to the name imported)."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def room(name: str) -> str:
    """The room of ``mailfarm.x.y``: ``x``; empty for the package itself (its version)."""
    parts = name.split(".")
    known = {room for row in ROWS for room in row} | {"sdk", "prove"}
    return parts[1] if len(parts) > 1 and parts[1] in known else ""


def service(name: str) -> str:
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "services" and parts[2] in cli.SERVICES else ""


def row(name: str) -> int:
    return next(number for number, rooms in enumerate(ROWS) if name in rooms)


def unlawful(path: Path) -> Iterator[str]:
    here, mine = room(dotted(path)), service(dotted(path))
    for line, name in imports(path):
        if name.split(".")[0] != "mailfarm":
            continue
        there = room(name)
        where = f"{path.relative_to(ROOT)}:{line}: {here or 'mailfarm'} imports {name}"
        if here == "sdk":
            if there != "sdk":
                yield f"{where}, but the sdk stands alone"
        elif here == "prove":
            if there not in ("sdk", "prove"):
                yield f"{where}, but what proves stands outside of what it proves"
        elif there == "prove":
            if here not in ("cli", "__main__"):
                yield f"{where}, but only the command line opens the door of what proves"
        elif not here:
            if there:
                yield f"{where}, but the package itself imports nothing"
        elif there == "sdk":
            if here not in MAY_USE_THE_CLIENT:
                yield f"{where}, but only the command line uses the sdk"
        elif there == here:
            if service(name) != mine and service(name):
                yield f"{where}, but services do not import one another"
        elif there:
            if row(there) >= row(here):
                yield f"{where}, which does not stand above it"
            elif there in FORBIDDEN_ALL_THE_SAME.get(here, ()):
                yield f"{where}, which it must reach through a port"


def test_every_room_has_a_row() -> None:
    rooms = {path.name.removesuffix(".py") for path in HOUSE.iterdir() if path.suffix == ".py" or _has_code(path)}
    known = {name for names in ROWS for name in names} | {"sdk", "prove", "__init__"}
    assert rooms <= known, f"give these a row in tests/test_house.py and in the design: {sorted(rooms - known)}"


def test_imports_run_one_way() -> None:
    found = [problem for path in modules() for problem in unlawful(path)]
    assert not found, "\n".join(found)


def test_pure_rooms_stay_pure() -> None:
    """No reactor, driver, socket, clock, environment or dice in rows 1 to 3 and the capabilities: all are arguments."""
    found = []
    for path in modules():
        if room(dotted(path)) not in PURE:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{line}: imports {name}"
            for line, name in imports(path)
            if name.split(".")[0] in IMPURE
        ]
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in ("open", "print", "input", "eval", "exec"):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: calls {called.id}")
            if isinstance(called, ast.Attribute) and called.attr in IMPURE_CALLS:
                owner = called.value
                if isinstance(owner, ast.Name) and owner.id in ("datetime", "date"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: looks at the clock")
    assert not found, "\n".join(found)


def test_the_import_law_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is judged: a file that breaks the law in each way is found out."""
    house = tmp_path / "mailfarm"
    monkeypatch.setattr("test_house.ROOT", tmp_path)
    cases = {
        "mail/a.py": "from ..smtp import x",
        "mail/b.py": "def f():\n    import mailfarm.ports",
        "accounts/c.py": "from ..mailboxes import store",
        "inbound/d.py": "from mailfarm.net import content",
        "services/mx.py": "from . import inbound",
        "services/api/__init__.py": "from ..live import frames",
        "services/sweep.py": "from ..backends import memory",
        "sdk/e.py": "from .. import ids",
        "prove/f.py": "from mailfarm.mail import envelope",
        "services/submission.py": "from mailfarm.prove import run",
        "services/inbound.py": "from ..sdk import Farm",
        "ports.py": "from . import config",
    }
    for name, source in cases.items():
        path = house / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        assert list(unlawful(path)), name
    lawful = house / "services" / "live.py"
    lawful.write_text(
        "from ..ports import Bus\nfrom ..net import hosts\nfrom ..mailboxes.feed import Feeds\nimport json"
    )
    assert not list(unlawful(lawful))


# --- one vocabulary --------------------------------------------------------------------------------------------------
def manual(word: str) -> str:
    """A service's docstring."""
    file, package = HOUSE / "services" / f"{word}.py", HOUSE / "services" / word / "__init__.py"
    assert file.exists() != package.exists(), f"mailfarm/services/{word}.py or {word}/__init__.py, and only one of them"
    return ast.get_docstring(tree(file if file.exists() else package)) or ""


def test_every_service_has_its_settings_and_no_settings_are_without_one() -> None:
    assert set(config.GROUPS) - {"farm"} == set(cli.SERVICES)


def test_services_live_under_their_word() -> None:
    found = {path.name.removesuffix(".py") for path in (HOUSE / "services").iterdir()}
    extra = {name for name in found if not name.startswith("_")} - set(cli.SERVICES)
    assert not extra, f"in services/ only services: {extra}"


@pytest.mark.parametrize("word", cli.SERVICES)
def test_a_service_has_a_manual_page(word: str) -> None:
    text = manual(word)
    lines = text.splitlines()
    places = [lines.index(section) if section in lines else -1 for section in _SECTIONS]
    assert -1 not in places, f"{word}: sections {_SECTIONS}, each on a line of its own; found {places}"
    assert places == sorted(places), f"{word}: sections in the order {_SECTIONS}"
    name = next(line for line in lines[places[0] + 1 :] if line.strip())
    assert re.match(rf"\s*{word} +(-|—|:) +\S", name), f"{word}: under NAME stands '{word} - its one job', not {name!r}"


@pytest.mark.parametrize("word", cli.SERVICES)
def test_a_service_is_a_command(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([word, "--help"])
    assert ended.value.code == 0
    assert "NAME" in capsys.readouterr().out
    assert cli.main(["help", word]) == 0
    assert "DIAGNOSTICS" in capsys.readouterr().out


@pytest.mark.parametrize("word", cli.SERVICES)
def test_a_service_documents_every_setting_and_none_that_is_not(word: str) -> None:
    names = {variable.name for variable in config.variables() if variable.group == word}
    said = set(re.findall(rf"MAILFARM_{word.upper()}_[A-Z0-9_]*[A-Z0-9]", manual(word)))
    assert said == names, f"{word}: undocumented {sorted(names - said)}, documented but unknown {sorted(said - names)}"


def test_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", "settings"]) == 0
    shown = capsys.readouterr().out
    assert [v.name for v in config.variables() if f"{v.name}=" not in shown] == []


def test_metrics_carry_the_word_of_their_service() -> None:
    """A metric of a service begins with its word, one of a store with what the store is to us."""
    prefixes = tuple(f"mailfarm_{word}_" for word in cli.SERVICES)
    of_ports = tuple(f"mailfarm_{port.lower()}_" for port in ports())
    for path in [path for path in modules() if room(dotted(path)) != "sdk"]:
        word = service(dotted(path))
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r"^mailfarm_[a-z0-9_]+$", node.value):
                    wanted = (f"mailfarm_{word}_",) if word else (*prefixes, *of_ports, "mailfarm_build")
                    assert name.startswith(wanted), f"{path.relative_to(ROOT)}:{node.lineno}: {name} is not {wanted}"


# --- nothing undocumented --------------------------------------------------------------------------------------------
def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT)) for path in modules(HOUSE, ROOT / "bench") if not ast.get_docstring(tree(path))
    ]
    assert not silent, f"modules begin with a docstring: {silent}"


def test_the_map_of_the_house_shows_every_room() -> None:
    shown = ast.get_docstring(tree(HOUSE / "__init__.py")) or ""
    rooms = {p.name.removesuffix(".py") for p in HOUSE.iterdir() if p.suffix == ".py" or _has_code(p)}
    missing = {name for name in rooms if not re.search(rf"\b{name}\b", shown)} - {"__init__", "__main__"}
    assert not missing, f"mailfarm/__init__.py does not show {sorted(missing)}"


def ports() -> list[str]:
    """The protocols of ports.py that a backend implements; the others are what these hand out."""
    handed_out = {"Content", "Tx", "Subscription", "Hold"}
    classes = [node for node in tree(HOUSE / "ports.py").body if isinstance(node, ast.ClassDef)]
    protocols = {
        node.name for node in classes if any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
    }
    return sorted(protocols - handed_out)


@pytest.mark.parametrize("port", ports())
def test_a_port_has_a_backend_and_a_contract(port: str) -> None:
    classes = [
        node.name
        for path in modules(HOUSE / "backends")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    ]
    assert any(name.endswith(port) for name in classes), f"no class …{port} in backends/"
    contract = ROOT / "tests" / "ports" / f"{port.lower()}_contract.py"
    assert contract.exists(), f"{port} has no contract suite: tests/ports/{contract.name}"
    users = [p for p in contract.parent.glob("test_*.py") if contract.stem in p.read_text("utf-8")]
    assert users, f"no test runs {contract.name}"


# --- tidy ------------------------------------------------------------------------------------------------------------
def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.splitlines()  # fmt: skip
    paths = [ROOT / name for name in names]
    return [path for path in paths if path.is_file()] or modules(HOUSE, ROOT / "tests", ROOT / "bench")


def test_no_file_is_long_without_a_reason() -> None:
    sizes = {
        str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines())
        for p in tracked("mailfarm/*.py", "mailfarm/*.js", "bench/*.py")
    }
    long = {name: size for name, size in sizes.items() if size > LONGEST and not LONG.get(name)}
    assert not long, f"is a noun missing in one of these, or a reason in LONG? {long}"
    idle = [name for name in LONG if sizes.get(name, 0) <= LONGEST]
    assert not idle, f"no longer long, take them out of LONG: {idle}"


def test_no_bags() -> None:
    bags = [
        str(p.relative_to(ROOT)) for p in tracked("*.py", "*.js") if p.stem in BAD_NAMES or p.parent.name in BAD_NAMES
    ]
    assert not bags, f"a name that says nothing: {bags}"


def test_nothing_is_left_for_later() -> None:
    marks = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X\\b", "HA" + "CK\\b"]))
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.py", "*.js", "*.sql", "*.sh", "*.html", "*.css", "Makefile", ".ci/*", "*.cfg", "*.toml")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not found, found


def test_what_a_checker_is_told_to_pass_over_has_a_reason_beside_it() -> None:
    bare = re.compile(r"# (type: ignore(\[[^]]*\])?|noqa(: [A-Z0-9, ]+)?)$")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if bare.search(line)
    ]
    assert not found, found


# --- licences --------------------------------------------------------------------------------------------------------
ALLOWED = re.compile(
    r"(MIT|MIT-0|ISC|0BSD|Unlicense|Zlib|PSF-2\.0|Python-2\.0|CC0-1\.0|BSL-1\.0|ZPL-2\.[01]|TCL|"
    r"BSD|BSD-[23]-Clause|BSD License|Apache|Apache-2\.0|Apache 2\.0|Apache License,? Version 2\.0|"
    r"Apache Software License|MIT License|The MIT License \(MIT\)|ISC License.*|Python Software Foundation License|"
    r"MPL-2\.0|Mozilla Public License 2\.0 \(MPL 2\.0\)|The Unlicense.*|"
    r"LGPL-(2\.1|3\.0)(-only|-or-later|\+)?|GNU (Library or )?Lesser General Public License (v[23].*|\(LGPL\)))"
)
"""Permissive, or LGPL and MPL at most: names as License-Expression, License and classifiers write them."""


def licence_terms(package: importlib.metadata.Distribution) -> list[str]:
    """The licences a package names, an expression taken apart (all must be allowed, also those joined by OR)."""

    def said(field: str) -> list[str]:
        return package.metadata.get_all(field) or []

    for expression in said("License-Expression"):
        return [term.strip() for term in re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", expression) if term.strip()]
    classifiers = [text.split(" :: ")[-1] for text in said("Classifier") if text.startswith("License ::")]
    named = [name for name in classifiers if name != "OSI Approved"]
    return named or [text.strip().splitlines()[0] for text in said("License") if text.strip()] or ["none named"]


def test_what_we_install_may_be_used_by_everyone() -> None:
    found = {package.name: licence_terms(package) for package in importlib.metadata.distributions()}
    bad = {name: terms for name, terms in found.items() if not all(ALLOWED.fullmatch(term) for term in terms)}
    assert not bad, f"licences to look at: {bad}"


@pytest.mark.parametrize("term", ["GPL-3.0-or-later", "AGPL-3.0-only", "Proprietary", "GNU General Public License v3"])
def test_a_licence_that_binds_others_would_be_noticed(term: str) -> None:
    assert not ALLOWED.fullmatch(term)


_SECTIONS = ["NAME", "DESCRIPTION", "SETTINGS", "DIAGNOSTICS"]


def _has_code(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.py"))


def test_no_two_modules_of_bench_and_tests_have_one_name() -> None:
    """They are imported by bare names, all in one process when everything is tested: the first would be everybody's."""
    places: dict[str, list[str]] = {}
    for path in [*modules(ROOT / "tests"), *(ROOT / "bench").glob("*.py")]:
        if path.name not in ("__init__.py", "conftest.py"):
            places.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
