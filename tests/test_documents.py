"""The documents, held against the code: what they name is there."""

from __future__ import annotations

import re

import pytest
from test_house import HOUSE, ROOT, manual, modules, tracked

from mailfarm import cli, config, events
from mailfarm.prove import faults

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("stack", "bench/results", "tests")),
    *sorted((HOUSE / "docs").rglob("*.md")),
]


def test_settings_a_document_names_exist() -> None:
    """A renamed setting leaves no trace of its old name in the documents."""
    known = {variable.name for variable in config.variables()} | config.CLIENT_VARIABLES
    known |= {f"{name}_FILE" for name in known}
    # what the stack's own files and commands read
    stack = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "stack").iterdir() if path.is_file() and path.suffix != ".md"
    )
    known |= set(re.findall(r"\bMAILFARM_[A-Z0-9_]*[A-Z0-9]\b", stack))
    for path in DOCUMENTS:
        names = re.findall(r"\bMAILFARM_[A-Z0-9_]*[A-Z0-9]\b(?![_<…])", path.read_text("utf-8"))
        assert set(names) <= known, f"{path.relative_to(ROOT)}: {sorted(set(names) - known)}"


@pytest.mark.parametrize("word", cli.SERVICES)
def test_a_service_has_the_same_job_in_its_manual_and_in_the_glossary(word: str) -> None:
    job = re.search(rf"^ *{word} - (.+)$", manual(word), re.MULTILINE)
    assert job
    assert f"| `{word}` | {job[1]} |" in (HOUSE / "docs" / "glossary.md").read_text("utf-8")


def test_the_tests_say_where_what_is() -> None:
    shown = (ROOT / "tests" / "README.md").read_text("utf-8")
    names = {path.relative_to(ROOT / "tests").parts[0] for path in tracked("tests/*/*")}
    shared = {path.stem for path in (ROOT / "tests").glob("*.py") if not path.name.startswith(("test_", "conftest"))}
    missing = [name for name in sorted(names) if f"`{name}/`" not in shown]
    missing += [name for name in sorted(shared) if f"`{name}`" not in shown]
    assert not missing, f"tests/README.md does not name {missing}"


def test_every_event_is_in_the_glossary() -> None:
    text = (HOUSE / "docs" / "glossary.md").read_text("utf-8")
    missing = [name for name in events._TYPES.values() if f"`{name}`" not in text]
    assert not missing, f"docs/glossary.md does not explain {missing}"


def test_the_documents_help_shows_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    for topic in ("glossary", "flow", "lifecycle", "process"):
        assert cli.main(["help", topic]) == 0
        assert len(capsys.readouterr().out) > 500


def test_help_that_is_named_somewhere_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """``mailfarm help WORD``, in documents, in the Makefile and in what programs say."""
    texts = [path.read_text("utf-8") for path in [ROOT / "Makefile", *DOCUMENTS, *modules(HOUSE)]]
    words = {word for text in texts for word in re.findall(r"mailfarm\s+help\s+([a-z][a-z-]*[a-z])", text)}
    assert {"dev", "settings", "queue"} <= words
    for word in sorted(words):
        assert cli.main(["help", word]) == 0, f"mailfarm help {word}"
    assert cli.main(["help", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert all(f" {word}" in said for word in ("dev", "send", "settings", "proving"))


def test_the_documents_name_modules_that_exist() -> None:
    """``net/smtp_server.py`` in a document is a file of the house."""
    for path in DOCUMENTS:
        for name in re.findall(r"`((?:mailfarm/)?[a-z_]+(?:/[a-z_]+)+\.(?:py|sql|js))`", path.read_text("utf-8")):
            inside = HOUSE / name.removeprefix("mailfarm/")
            assert inside.exists() or (ROOT / name).exists(), f"{path.relative_to(ROOT)}: there is no {name}"


def test_decisions_are_numbered_and_carry_a_number_that_decided_them() -> None:
    files = sorted((HOUSE / "docs" / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in files]
    assert all(number.isdigit() for number in numbers)
    assert len(set(numbers)) == len(numbers)
    for path in files:
        body = path.read_text("utf-8").partition("\n")[2]
        assert re.search(r"\d", body), f"{path.name}: no number decided this"
        assert len(body.split()) < 400, f"{path.name}: half a page is enough"


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            assert "://" in link or (path.parent / link).exists(), f"{path.relative_to(ROOT)}: {link}"


def test_what_a_document_says_to_run_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    targets |= {"setup-dev", "setup-test", "setup-bench"}
    for path in DOCUMENTS:
        text, name = path.read_text("utf-8"), path.relative_to(ROOT)
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{name}: make {target}"
        for program in re.findall(r"(?:^|`|&& )((?:stack|bench)/[a-z_]+(?:\.[a-z]+)?)\b", text, re.MULTILINE):
            made = program == "stack/private"  # by stack/prepare
            assert made or (ROOT / program).exists(), f"{name}: {program}"


def test_faults_a_document_names_are_there() -> None:
    known = {fault.name for fault in faults.every()}
    for path in (ROOT / "stack" / "README.md", HOUSE / "docs" / "proving.md"):
        rows = [line.split("|")[1] for line in path.read_text("utf-8").splitlines() if line.startswith("| `")]
        named = {name for row in rows for name in re.findall(r"`([a-z]+(?:-[a-z0-9]+)+)`", row)}
        named -= {each.name for each in (ROOT / "stack").iterdir()}
        assert len(named) > 5
        assert named <= known, f"{path.relative_to(ROOT)}: {sorted(named - known)}"
