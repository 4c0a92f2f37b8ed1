"""A developer's programs against the deployed farm: the SDK and the commands, by HTTPS with the farm's own
authority and a token that may do no more than it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from swarm_deployment import HOST, SUBMISSION, Deployment

from mailfarm.cli import main
from mailfarm.sdk import Farm

pytestmark = pytest.mark.stack
SCOPES = "mailboxes:read mailboxes:write messages:read messages:write refusals:read"


@pytest.fixture
def token(stack: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One made with the first one, as operating shows; where the farm is stands in the environment."""
    bearer = {"Authorization": f"Bearer {stack.token}"}
    with httpx.Client(base_url=stack.url, headers=bearer, verify=stack.tls(), timeout=30) as http:
        answer = http.post("/v1/tokens", json={"name": "tests", "scope": SCOPES})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("MAILFARM_URL", stack.url)
        monkeypatch.setenv("MAILFARM_TOKEN", made["token"])
        monkeypatch.setenv("MAILFARM_CA", str(stack.authority))
        yield made["token"]
        assert http.delete(f"/v1/tokens/{made['id']}").status_code == 204


def test_with_no_api_left_the_answer_is_503(stack: Deployment) -> None:
    """And not a 404 of Traefik's, which would say that there is no such mailbox."""
    with httpx.Client(base_url=stack.url, verify=stack.tls(), timeout=30) as http:
        for word, path in (("api", "/v1/mailboxes"), ("live", "/v1/events")):
            stack.scale(word, 0)
            try:
                stack.until(lambda path=path: http.get(path).status_code == 503, 15, f"503 without {word}")
            finally:
                stack.scale(word, 2)
        stack.until(lambda: http.get("/v1/mailboxes").status_code == 401, 30, "the API")


def test_the_commands(stack: Deployment, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Farm(stack.url, token, ca=stack.authority, timeout=30) as farm:
        inbox = farm.create_mailbox()
        assert (inbox.smtp.host, inbox.smtp.port, inbox.smtp.starttls_port, inbox.smtp.tls_port) == (HOST, 25, 587, 465)
        (tmp_path / "password").write_text(str(inbox.smtp.password))
        user = ("--user", str(inbox.smtp.user), "--password-file", str(tmp_path / "password"))
        assert main(["send", "--smtp", f"smtp+starttls://{HOST}:{SUBMISSION}", "--to", "any@where.example", *user]) == 0
        assert main(["send", "--smtp", f"smtps://{HOST}:465", "--to", "any@where.example", *user]) == 0
        assert main(["send", "--to", inbox.address]) == 0  # 25, as a stranger
        capsys.readouterr()
        assert main(["wait", inbox.address, "--count", "3", "--code"]) == 0
        assert len(capsys.readouterr().out.split()) == 3
        assert main(["list", inbox.address]) == 0
        assert main(["show", "latest", "--mailbox", inbox.address]) == 0
        assert "Reset your password" in capsys.readouterr().out
        inbox.delete()
