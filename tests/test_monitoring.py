"""Alerts and dashboard: Prometheus takes them, the alerts fire when they should, and every metric they name exists."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "stack" / "monitoring"
DASHBOARD = FOLDER / "grafana.json"


@pytest.fixture(scope="module")
def promtool(component: Callable[[str], Path]) -> Callable[..., str]:
    program = component("promtool")

    def run(*words: str | Path) -> str:
        done = subprocess.run([program, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_the_configuration_is_one(promtool: Callable[..., str], tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yml").read_text()
    assert "/etc/prometheus/rules.yml" in text
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/", f"{FOLDER}/"))
    assert "SUCCESS" in promtool("check", "config", config)


def test_the_alerts_fire_when_they_should_and_not_else(promtool: Callable[..., str]) -> None:
    promtool("test", "rules", FOLDER / "rules-test.yml")


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return [*panels, (FOLDER / "rules.yml").read_text()]


def test_every_query_of_the_dashboard_is_one(promtool: Callable[..., str], tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(expressions()[:-1])]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


def test_every_metric_they_name_is_one_of_ours() -> None:
    """What the code calls a metric, with the endings that Prometheus sees."""
    code = "\n".join(path.read_text() for path in (ROOT / "mailfarm").rglob("*.py"))
    named = set(re.findall(r'"(mailfarm_[a-z_]+)"', code))
    for prefix, path in {
        "mailfarm_mx_": "net/smtp_metrics.py",
        "mailfarm_submission_": "net/smtp_metrics.py",
        "mailfarm_queue_": "backends/redis_queue_metrics.py",
    }.items():
        words = re.findall(r'(?:counter|gauge|histogram)\(\s*"([a-z_]+)"', (ROOT / "mailfarm" / path).read_text())
        named |= {prefix + word for word in words}
    named |= {"mailfarm_mx_sessions_open", "mailfarm_submission_sessions_open"}
    spread = re.sub(
        r'"mailfarm_\(mx\|submission\)_([a-z_]+)"',
        r'"mailfarm_mx_\1" "mailfarm_submission_\1"',
        "\n".join(expressions()),
    )
    asked = {re.sub(r"_(total|bucket|count|sum)$", "", one) for one in re.findall(r"\bmailfarm_[a-z_]+", spread)}
    asked -= {one for one in asked if re.search(rf"docker [a-z ]*(?:--no-trunc )?{one}\b", spread) and one not in named}
    assert len(asked) > 25
    assert asked <= named, sorted(asked - named)


def test_every_alert_says_what_to_do() -> None:
    rules = (FOLDER / "rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n(.*?)(?=\n      - alert|\n  - name|\Z)", rules, re.S)
    assert len(alerts) >= 12
    for name, body in alerts:
        assert re.search(r"summary: .+\n +do: .+", body), name
        assert re.search(r"severity: (page|ticket)", body), name
