"""What is installed is what the lock says, and ``.ci/audit`` lets no finding pass. Their licences: test_house.py."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("ci_audit", str(ROOT / ".ci" / "audit"))
    spec = importlib.util.spec_from_loader("ci_audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_what_is_installed_is_what_the_lock_says(audit: ModuleType) -> None:
    locked = audit.locked((ROOT / "requirements.lock").read_text("utf-8"))
    assert len(locked) > 50
    installed = {audit.normal(each.name): each.version for each in importlib.metadata.distributions()}
    assert {name: installed.get(name) for name in locked} == locked
    unlocked = set(installed) - set(locked) - {"mailfarm", "pip", "setuptools", "wheel"}
    assert not unlocked, f"not in requirements.lock: {unlocked}"


def test_every_requirement_has_a_ceiling_or_is_one_we_want_the_newest_of() -> None:
    """A new major version comes when somebody has looked at it."""
    requires = importlib.metadata.requires("mailfarm") or []
    open_ended = {each.split(">")[0].split(";")[0].strip() for each in requires if "<" not in each}
    assert open_ended <= {"cryptography"}


WANTED = {"alpha": "1.0", "beta-x": "2.0"}


def report(*dependencies: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(dependencies)}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (
            report({"name": "alpha", "version": "1.0", "vulns": []}, {"name": "Beta_X", "version": "2.0", "vulns": []}),
            0,
        ),
        (None, 3),
        (report(), 3),
        (report({"name": "alpha", "version": "1.0", "vulns": []}), 3),
        (report({"name": "alpha", "version": "1.0", "vulns": []}, {"name": "beta-x", "skip_reason": "not found"}), 3),
        (report({"name": "alpha", "version": "1.0", "vulns": [{"id": "X-1", "fix_versions": []}]}), 1),
        (
            report(
                {"name": "alpha", "skip_reason": "not found"},
                {"name": "beta-x", "version": "2.0", "vulns": [{"id": "X-1", "fix_versions": ["2.1"]}]},
            ),
            1,
        ),
    ],
)
def test_a_finding_is_a_failure_and_silence_is_no_clean_bill(audit: ModuleType, given: Any, code: int) -> None:
    assert audit.judge(given, WANTED)[0] == code


def test_an_sbom_of_something_else_is_noticed(audit: ModuleType) -> None:
    component = {"name": "Alpha", "version": "1.0"}
    assert audit.differs({"components": [component]}, {"alpha": "1.0"}) == []
    assert audit.differs({"components": [component]}, {"alpha": "1.1"})
    assert audit.differs({"components": [component]}, WANTED)
    assert audit.differs({}, WANTED)


def test_an_sbom_of_an_earlier_run_is_not_judged(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that are there and do not run leave what the last run has written."""
    (tmp_path / "tools").write_text(" ".join(audit.TOOLS))
    there = [{"name": name, "version": version} for name, version in audit.locked(audit.LOCK.read_text()).items()]
    sbom = tmp_path / "sbom.json"
    sbom.write_text(json.dumps({"components": there}))
    for name, value in {"ROOT": tmp_path, "VENV": tmp_path, "SBOM": sbom}.items():
        monkeypatch.setattr(audit, name, value)
    assert audit.main() == audit.UNSAFE


def test_ci_asks_and_stops_at_a_finding(tmp_path: Path) -> None:
    """The very lines of .ci/run, with an audit that ends in each way."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert ".ci/audit" in script
    lines = script[script.index('code=0; wait "$audit"') : script.index('echo "$summary"\n', script.index("wait"))]
    (tmp_path / ".make").mkdir()
    (tmp_path / ".make" / "audit.log").write_text("said\n")
    for code, passes in ((0, True), (3, True), (1, False), (2, False), (127, False)):
        text = f"set -euo pipefail\n(exit {code}) & audit=$!\n{lines}\n"
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0, done.stdout) == (passes, "said\n"), code
