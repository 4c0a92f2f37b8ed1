"""Settings: every mistake at once, each saying what to change."""

import pytest

from mailfarm.config import Address, load, variables
from mailfarm.errors import ConfigurationError


def no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def mistakes(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(environ, no_file)
    return list(caught.value.mistakes)


def test_nothing_set_is_a_laptop_on_loopback() -> None:
    settings = load({"PATH": "/bin"}, no_file)
    assert settings.submission.capture == Address("127.0.0.1", 1025)
    assert settings.api.listen == Address("127.0.0.1", 8025)
    assert settings.farm.max_size == 50 * 1024 * 1024


def test_all_mistakes_are_told_together() -> None:
    found = mistakes(
        {
            "MAILFARM_MX_LISTEN": "here",
            "MAILFARM_MAX_SIZE": "big",
            "MAILFARM_MX_LISTNE": "127.0.0.1:25",
            "MAILFARM_CERTIFICATE": "/tmp/cert.pem",
            "MAILFARM_HOSTNAME": "a",
            "MAILFARM_HOSTNAME_FILE": "/run/name",
        }
    )
    assert any(m.startswith("MAILFARM_MX_LISTEN: 'here'") for m in found)
    assert any(m.startswith("MAILFARM_MAX_SIZE: 'big'") and "50M" in m for m in found)
    assert "MAILFARM_MX_LISTNE: there is no such setting; did you mean MAILFARM_MX_LISTEN?" in found
    assert "MAILFARM_CERTIFICATE and MAILFARM_KEY: set both or neither" in found
    assert "MAILFARM_HOSTNAME: set it or MAILFARM_HOSTNAME_FILE, not both" in found


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("MAILFARM_API_LISTEN", "0.0.0.0:8025"),
        ("MAILFARM_SUBMISSION_CAPTURE", ":1025"),
        ("MAILFARM_MX_LISTEN", "[2001:db8::1]:25"),
    ],
)
def test_beyond_loopback_needs_tokens(name: str, where: str) -> None:
    assert any(m.startswith(name) and "MAILFARM_API_AUTH=token" in m for m in mistakes({name: where}))
    tokens = {"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN": "x" * 32}
    assert load({name: where, **tokens}, no_file).api.auth == "token"


def test_a_weak_first_token_is_refused_and_not_shown() -> None:
    found = mistakes({"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN": "hunter2"})
    assert len(found) == 1
    assert "hunter2" not in found[0]


def test_secrets_come_from_files_and_stay_out_of_repr() -> None:
    files = {"/run/secrets/token": "0123456789abcdef0123456789\n"}
    settings = load(
        {"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN_FILE": "/run/secrets/token"}, files.__getitem__
    )
    assert settings.api.first_token == "0123456789abcdef0123456789"
    assert "0123456789abcdef" not in repr(settings)


def test_a_file_that_cannot_be_read_is_a_mistake() -> None:
    assert mistakes({"MAILFARM_HOSTNAME_FILE": "/nowhere"}) == [
        "MAILFARM_HOSTNAME_FILE: cannot read /nowhere: No such file or directory"
    ]


@pytest.mark.parametrize("text", ["off", "127.0.0.1:0", "[::1]:1025", "localhost:25"])
def test_listening_addresses(text: str) -> None:
    listen = load({"MAILFARM_MX_LISTEN": text}, no_file).mx.listen
    assert (str(listen) if listen else "off") == text


@pytest.mark.parametrize("text", ["mail.example:25", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x", ""])
def test_wrong_listening_addresses(text: str) -> None:
    assert len(mistakes({"MAILFARM_MX_LISTEN": text})) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAILFARM_API_HOSTS", "*"),
        ("MAILFARM_API_HOSTS", "http://mail.example"),
        ("MAILFARM_API_HOSTS", "mail.example:8025"),
        ("MAILFARM_API_MAX_WAITS", "0"),
        ("MAILFARM_LIVE_HEARTBEAT", "0"),
        ("MAILFARM_MAX_SIZE", "0"),
        ("MAILFARM_GRACE", "-1"),
        ("MAILFARM_MX_PROXY_FROM", "10.0.0.1/8"),
        ("MAILFARM_MX_STARTTLS", "perhaps"),
    ],
)
def test_values_that_do_nothing_or_harm_are_refused(name: str, value: str) -> None:
    (mistake,) = mistakes({name: value})
    assert mistake.startswith(f"{name}: {value!r} will not do")


def test_every_variable_says_what_it_does() -> None:
    for variable in variables():
        assert variable.help, variable.name
