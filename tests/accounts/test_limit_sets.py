"""The file of limits: what may stand there, and what is said of every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from mailfarm.accounts.allowance import SetOf, again, charges
from mailfarm.accounts.limit_sets import CLIENT, SUBJECTS, WITHOUT_A_FILE, Allowed, read
from mailfarm.errors import ConfigurationError, DatabaseUnavailable
from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

PAGE = (Path(__file__).parents[2] / "mailfarm" / "docs" / "limits.md").read_text("utf-8")


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        read(text)
    return [line.removeprefix("MAILFARM_LIMITS: ") for line in raised.value.mistakes]


def test_without_a_file_only_the_guards_are_on() -> None:
    assert WITHOUT_A_FILE.client == Allowed(
        connections=(Limit(600, 60),),
        sessions=500,
        failed_auth=Limit(10, 300),
        failed_auth_of_a_user=Limit(50, 300),
        failed_tokens=Limit(100, 300),
    )
    default = WITHOUT_A_FILE.default
    assert {default.credential, default.mailbox, default.account, default.token} == {Allowed()}


def test_the_example_in_the_manual_is_right() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    sets = read(example)
    assert sets.client.messages == (Limit(600, 60),)
    assert sets.default.credential.recipients == (Quota(100_000),)
    assert sets.default.mailbox.messages == (Limit(300, 60), Limit(5000, 3600))
    trial = sets.by_account["trial"]
    assert trial is sets.by_account["workshop"]
    assert trial.mailbox.messages == (Limit(20, 60), Limit(5000, 3600)), "what it does not say is as in default"
    assert trial.account.messages == (Quota(1000),)
    assert trial.account.requests == (Limit(3000, 60),)
    assert trial.token == sets.default.token


def test_the_manual_tells_of_every_key() -> None:
    for key in {*CLIENT, *(key for keys in SUBJECTS.values() for key in keys)}:
        assert f"`{key}`" in PAGE, key


def test_nought_is_no_limit_also_over_what_is_inherited() -> None:
    sets = read(
        "[client]\nconnections_per_minute = 0\nsessions = 0\nfailed_auth = 0\nfailed_auth_of_a_user = 0\n"
        "failed_tokens = 0\n"
        "[set.default.mailbox]\nmessages_per_hour = 5\n[set.free]\naccounts = ['a']\nmailbox.messages_per_hour = 0"
    )
    assert sets.client == Allowed()
    assert sets.by_account["a"].mailbox == Allowed()


def test_every_mistake_is_told_at_once_with_its_key() -> None:
    found = mistakes(
        """
        limit = 3
        [client]
        session = 5
        sessions = true
        messages_per_hour = -1
        [set.default]
        accounts = ["x"]
        [set.default.mailbox]
        messages_per_minute = "many"
        [set.nobody.account]
        messages_per_fortnight = 1
        [set.one]
        accounts = ["a"]
        mailbox = 3
        [set.two]
        accounts = ["a", "b"]
        [set.three]
        accounts = [1]
        """
    )
    assert [line.partition(":")[0] for line in found] == [
        "limit",
        "client.session",
        "client.sessions",
        "client.messages_per_hour",
        "set.default.accounts",
        "set.default.mailbox.messages_per_minute",
        "set.nobody.account.messages_per_fortnight",
        "set.nobody.accounts",
        "set.one.mailbox",
        "set.two.accounts",
        "set.three.accounts",
    ]
    assert "did you mean sessions?" in found[1]
    assert "'a' is in set 'one' already" in found[9]


@pytest.mark.parametrize("text", ["client = 3", "set = []", "[client]\nset = 1\n[set]\ndefault = 5"])
def test_a_table_must_be_one(text: str) -> None:
    assert mistakes(text)


def test_what_is_no_toml_says_where() -> None:
    (found,) = mistakes("[client]\nsessions = \n")
    assert found.startswith("the file is not TOML: ")
    assert "line 2" in found


@pytest_twisted.ensureDeferred
async def test_an_account_has_the_set_that_names_it_by_id_or_name() -> None:
    sets = read("[set.trial]\naccounts = ['trial', '01ID']\naccount.messages_per_day = 1")
    asked: list[str] = []
    names = {"01T": "trial", "01O": "other"}
    away = False

    class Names:
        async def read(self, work: Any) -> Any:
            if away:
                raise DatabaseUnavailable("gone")
            return await work(self)

        async def row(self, sql: str, params: tuple[str]) -> Any:
            asked.append(params[0])
            return (names[params[0]],) if params[0] in names else None

    set_of = SetOf(sets, Names())
    away = True
    assert (await set_of("01T")).name == "default", "a guard is no reason to refuse mail"
    away = False
    for _ in range(2):
        assert (await set_of("01T")).name == "trial"
        assert (await set_of("01O")).name == "default"
        assert (await set_of("01ID")).name == "trial"
        assert (await set_of("gone")).name == "default"
    assert asked == ["01T", "01O", "gone"], "a name never changes"
    assert (await SetOf(WITHOUT_A_FILE, Names())("01T")) is WITHOUT_A_FILE.default
    assert len(asked) == 3


def test_each_rate_has_a_key_of_its_own() -> None:
    rates = (Limit(1, 60), Quota(5))
    assert charges("mailbox:1", rates, 0) == [
        Charge("mailbox:1:60", rates[0], 0),
        Charge("mailbox:1:86400", rates[1], 0),
    ]


@pytest.mark.parametrize(
    ("wait", "said"),
    [
        (0.001, "try again in 1 s"),
        (41.2, "try again in 42 s"),
        (120, "try again in 120 s"),
        (121, "try again in 3 min"),
        (7200, "try again in 120 min"),
        (7201, "try again in 3 h"),
        (float("inf"), "this is more than the limit allows at once"),
    ],
)
def test_a_wait_in_words(wait: float, said: str) -> None:
    assert again(wait) == said
