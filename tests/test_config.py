"""Settings: every mistake at once, each saying what to change."""

from collections.abc import Sequence

import pytest

from mailfarm.config import ALL, Address, load, variables
from mailfarm.errors import ConfigurationError


def no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def mistakes(environ: dict[str, str], services: Sequence[str] = ALL) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(environ, no_file, services)
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


CLUSTER = {
    "MAILFARM_DATABASE_URL": "postgresql://mailfarm@db:5432/mailfarm",
    "MAILFARM_QUEUE_URL": "redis://queue-1:6379, redis://queue-2:6379",
    "MAILFARM_CACHE_URL": "redis://cache:6379/1",
}
TLS = {"MAILFARM_CERTIFICATE": "/run/secrets/certificate", "MAILFARM_KEY": "/run/secrets/key"}
OPEN = {"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN": "x" * 32}


@pytest.mark.parametrize("word", ["mx", "submission", "inbound", "sweep", "api", "live", "spool"])
def test_a_service_by_itself_takes_what_a_stack_would_set(word: str) -> None:
    listen = {
        "MAILFARM_MX_LISTEN": "[::]:1125",
        "MAILFARM_SUBMISSION_CAPTURE": "off",
        "MAILFARM_SUBMISSION_STARTTLS": "[::]:1587",
        "MAILFARM_SUBMISSION_TLS": "[::]:1465",
        "MAILFARM_API_LISTEN": "[::]:8025",
        "MAILFARM_LIVE_LISTEN": "[::]:8026",
        "MAILFARM_STATUS_LISTEN": "[::]:8080",
        "MAILFARM_SPOOL": "/var/spool/mailfarm",
    }
    settings = load(CLUSTER | TLS | OPEN | listen, no_file, (word,))
    assert settings.farm.queue_url == ("redis://queue-1:6379", "redis://queue-2:6379")
    assert settings.farm.account == "main"


def test_the_local_spool_is_for_a_queue_elsewhere_and_spool_needs_one() -> None:
    spool = {"MAILFARM_SPOOL": "/var/spool/mailfarm"}
    (mistake,) = mistakes(spool)
    assert mistake.startswith("MAILFARM_SPOOL: without MAILFARM_QUEUE_URL the queue is in SQLite")
    assert load(CLUSTER | spool, no_file).farm.spool == "/var/spool/mailfarm"  # dev on shared stores
    assert mistakes(CLUSTER, ("spool",)) == [
        "MAILFARM_SPOOL: spool by itself drains this folder and does nothing else; name it"
    ]
    queue = {"MAILFARM_QUEUE_URL": CLUSTER["MAILFARM_QUEUE_URL"]}  # it needs no database and no cache
    assert load(queue | spool | {"MAILFARM_SPOOL_SIZE": "2G"}, no_file, ("spool",)).spool.size == 2 << 30


def test_a_service_by_itself_says_all_it_lacks() -> None:
    found = mistakes({}, ("mx",))
    assert found == [
        "MAILFARM_QUEUE_URL, MAILFARM_CACHE_URL, MAILFARM_DATABASE_URL: mx by itself needs a queue, a cache and a "
        "database shared with the other services; set them, or run everything in one process: mailfarm dev",
        "MAILFARM_MX_STARTTLS: this needs a certificate; set MAILFARM_CERTIFICATE and MAILFARM_KEY, or "
        "MAILFARM_MX_STARTTLS=no",
    ]
    assert [m for m in mistakes({}, ("sweep",)) if "MAILFARM_CACHE_URL, MAILFARM_DATABASE_URL: sweep" in m]
    assert mistakes(CLUSTER, ("live",)) == ["MAILFARM_LIVE_LISTEN: live by itself does nothing but listen; say where"]


def test_the_first_token_is_asked_of_the_api_alone() -> None:
    token = {"MAILFARM_API_AUTH": "token", "MAILFARM_LIVE_LISTEN": "[::]:8026"}
    assert load(CLUSTER | token, no_file, ("live",)).api.auth == "token"
    assert any(m.startswith("MAILFARM_API_FIRST_TOKEN") for m in mistakes(CLUSTER | token, ("api",)))
    # the mail ports show nothing to who is not signed in
    load(CLUSTER | TLS | {"MAILFARM_MX_LISTEN": "[::]:25"}, no_file, ("mx",))
    assert any("nobody has to sign in" in m for m in mistakes(CLUSTER | {"MAILFARM_LIVE_LISTEN": ":8026"}, ("live",)))


@pytest.mark.parametrize(
    ("environ", "mistake"),
    [
        ({"MAILFARM_QUEUE_URL": "redis://q"}, "MAILFARM_QUEUE_URL: without MAILFARM_DATABASE_URL"),
        ({"MAILFARM_CACHE_URL": "redis://c"}, "MAILFARM_CACHE_URL: without MAILFARM_DATABASE_URL"),
        ({"MAILFARM_QUEUE_PASSWORD": "hunter2"}, "MAILFARM_QUEUE_PASSWORD: it does nothing"),
        ({"MAILFARM_REDIS_CA": "/ca.pem"}, "MAILFARM_REDIS_CA: it does nothing"),
        (
            {"MAILFARM_DATABASE_URL": "postgresql://u:hunter2@db/m", "MAILFARM_DATABASE_PASSWORD": "hunter2"},
            "MAILFARM_DATABASE_PASSWORD: there is a password in MAILFARM_DATABASE_URL too",
        ),
    ],
)
def test_stores_that_contradict_each_other(environ: dict[str, str], mistake: str) -> None:
    (found,) = mistakes(environ)
    assert found.startswith(mistake)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("MAILFARM_DATABASE_URL", "mysql://db/mailfarm"),
        ("MAILFARM_DATABASE_URL", "postgresql://db"),
        ("MAILFARM_DATABASE_URL", "postgresql://db:hunter2/mailfarm"),
        ("MAILFARM_DATABASE_URL", "postgresql://u:hunter2@db:port/mailfarm"),
        ("MAILFARM_DATABASE_URL", "redis://:hunter2@db"),
        ("MAILFARM_QUEUE_URL", "queue:6379"),
        ("MAILFARM_QUEUE_URL", "redis://u:hunter2@queue:99999"),
        ("MAILFARM_QUEUE_URL", "redis://u:hunter2"),
        ("MAILFARM_QUEUE_URL", "redis://u:hunter2/hunter2@queue"),
        ("MAILFARM_QUEUE_URL", "redis://u:hunter2 hunter2@queue"),
        ("MAILFARM_QUEUE_URL", "redis://:hunter2[@queue"),
        ("MAILFARM_QUEUE_URL", "redis://queue/x"),
        ("MAILFARM_QUEUE_URL", "redis://h1;h2"),
        ("MAILFARM_QUEUE_URL", "redis+sentinel://h1:26379;h2:26379"),
        ("MAILFARM_QUEUE_URL", "redis://queue redis://queue"),
        ("MAILFARM_CACHE_URL", "redis://one redis://:hunter2@two"),
        ("MAILFARM_CACHE_URL", "redis://:hunter2@cache?db=1"),
    ],
)
def test_a_wrong_url_is_refused_and_its_password_not_shown(name: str, url: str) -> None:
    found = [m for m in mistakes({name: url}) if " will not do: " in m]
    assert len(found) == 1
    assert found[0].startswith(f"{name}: ")
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("MAILFARM_DATABASE_URL", "postgresql://mailfarm:hunter2@db.example:5432/mailfarm?sslmode=verify-full"),
        ("MAILFARM_DATABASE_URL", "postgresql://one:5432,two:5432/mailfarm"),
        ("MAILFARM_DATABASE_URL", "postgresql:///mailfarm"),
        ("MAILFARM_QUEUE_URL", "rediss://mailfarm:hunter2@[2001:db8::1]:6379/2"),
        ("MAILFARM_QUEUE_URL", "redis+sentinel://h1:26379;h2:26379/mail redis+sentinel://:hunter2@h3/mail/1"),
        ("MAILFARM_CACHE_URL", "redis://cache"),
    ],
)
def test_a_right_url_is_kept_out_of_repr(name: str, url: str) -> None:
    settings = load(
        {name: url, **({} if "DATABASE" in name else {"MAILFARM_DATABASE_URL": "postgresql://d/m"})}, no_file
    )
    assert url.split()[0] in (settings.farm.database_url, settings.farm.cache_url, *settings.farm.queue_url)
    assert "hunter2" not in repr(settings)
