"""Secrets are made by machine and never stored; credentials and tokens end when they should."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from dataclasses import fields

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.accounts import store
from mailfarm.accounts.credential import Credential, check
from mailfarm.accounts.secret import ITERATIONS, digest, new_secret, verifier
from mailfarm.accounts.token import SCOPES, new_token, scopes
from mailfarm.errors import Conflict, Invalid, NotFound


def test_a_secret_has_at_least_128_random_bits_and_needs_no_escaping():
    taken = []

    def random(octets):
        taken.append(octets)
        return os.urandom(octets)

    secret = new_secret(random)
    assert max(taken) * 8 >= 128
    assert secret.text.isalnum()
    assert secret.text == secret.text.lower()
    assert base64.b32decode(secret.text.upper())


def test_the_verifier_does_not_hold_the_secret():
    secret = new_secret(os.urandom)
    assert secret.text not in repr(secret)
    assert secret.text not in secret.verifier.scram
    assert secret.text.encode() not in secret.verifier.sha256


def test_the_scram_verifier_agrees_with_the_example_of_rfc_7677():
    # RFC 7677 §3: user "user", password "pencil"
    made = verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    method, salted, keys = made.scram.split("$")
    stored, server = keys.split(":")
    assert (method, salted) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    auth = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(base64.b64decode(stored), auth, "sha256")
    key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(key).digest() == base64.b64decode(stored)
    assert hmac.digest(base64.b64decode(server), auth, "sha256") == base64.b64decode(
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


def test_iterations_are_those_rfc_7677_asks_for():
    assert ITERATIONS >= 4096


def credential(secret, **kwargs):
    return Credential("id", "account", "name", "capture", None, secret.verifier, 0, **kwargs)


def test_a_secret_is_good_until_it_expires_or_is_revoked():
    secret = new_secret(os.urandom)
    assert check(credential(secret), secret.text, 5)
    assert not check(credential(secret), secret.text + "x", 5)
    assert not check(None, secret.text, 5)
    assert check(credential(secret, expires_at=6), secret.text, 5)
    assert not check(credential(secret, expires_at=5), secret.text, 5)
    assert not check(credential(secret, revoked_at=1), secret.text, 5)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_may_be_tried_as_a_secret(text):
    assert not check(None, text, 0)


def test_the_work_for_an_unknown_user_is_the_work_for_a_known_one(monkeypatch):
    secret = new_secret(os.urandom)
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        "mailfarm.accounts.credential.hmac.compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b)
    )
    for known in (None, credential(secret), credential(secret, revoked_at=1)):
        check(known, "wrong", 5)
    assert compared == [(32, 32)] * 3


def test_scopes_are_known_and_in_one_order():
    assert scopes(["messages:read", "mailboxes:read", "messages:read"]) == ("mailboxes:read", "messages:read")
    for wanted in ([], ["everything"], ["messages:read", "mailboxes"]):
        with pytest.raises(Invalid):
            scopes(wanted)


@pytest_twisted.ensureDeferred
async def test_an_account_is_made_once(house):
    assert await house.new_account("a") == await house.new_account("a") != await house.new_account("b")


@pytest_twisted.ensureDeferred
async def test_a_credential_is_found_by_its_name_and_checked(house):
    secret = new_secret(os.urandom)
    made = await house.unit(store.create_credential, house.ids, house.account, secret.verifier, name="me")
    found = await house.read(store.find_credential, "me")
    assert found == made
    assert check(found, secret.text, house.clock())
    assert await house.read(store.find_credential, "you") is None
    with pytest.raises(Conflict):
        await house.unit(store.create_credential, house.ids, house.account, secret.verifier, name="me")
    with pytest.raises(Invalid):
        await house.unit(store.create_credential, house.ids, house.account, secret.verifier, name="a\r\nb")


@pytest_twisted.ensureDeferred
async def test_credentials_are_found_together_with_the_same_work_for_those_that_are_none(house, monkeypatch):
    secret = new_secret(os.urandom)
    mailbox = await house.mailbox()
    made = {}
    for name, where in (("me", None), ("you", mailbox.id)):
        made[name] = await house.unit(
            store.create_credential, house.ids, house.account, secret.verifier, name=name, mailbox=where
        )
    of_values = []
    real = store._credential
    monkeypatch.setattr("mailfarm.accounts.store._credential", lambda row: of_values.append(row) or real(row))
    names = ["me", "nobody", "you", "ME", "\x00", "'; --"]
    found = await house.read(store.credentials_of, names)
    assert found == dict.fromkeys(names) | made
    assert [len(bytes(row[5])) for row in of_values] == [32] * 6
    assert len({len(row[6]) for row in of_values}) == 1


@pytest_twisted.ensureDeferred
async def test_a_revoked_credential_is_no_good(house):
    secret = new_secret(os.urandom)
    made = await house.unit(store.create_credential, house.ids, house.account, secret.verifier, name="me")
    other = await house.new_account("other")
    with pytest.raises(NotFound):
        await house.unit(store.revoke_credential, other, made.id)
    await house.unit(store.revoke_credential, house.account, made.id)
    assert not check(await house.read(store.find_credential, "me"), secret.text, house.clock())
    assert [each.id for each in await house.read(store.credentials, house.account)] == [made.id]


@pytest_twisted.ensureDeferred
async def test_the_secret_is_nowhere_in_the_database(house):
    secret, token = new_secret(os.urandom), new_token(os.urandom)
    await house.unit(store.create_credential, house.ids, house.account, secret.verifier, name="me")
    await house.unit(store.create_token, house.ids, house.account, token, name="t", scopes_=SCOPES)

    async def everything(tx):
        return [await tx.rows(f"select * from {table}") for table in ("credential", "token")]

    rows = repr(await house.database.read(everything))
    assert secret.text not in rows
    assert token not in rows


@pytest_twisted.ensureDeferred
async def test_a_token_allows_its_scopes_while_it_lives(house):
    text = new_token(os.urandom)
    end = house.clock() + 1_000_000
    await house.unit(
        store.create_token, house.ids, house.account, text, name="ci", scopes_=["messages:read"], expires_at=end
    )
    token = await house.read(store.find_token, text)
    assert token.allows("messages:read", end - 1)
    assert not token.allows("messages:write", end - 1)
    assert not token.allows("messages:read", end)
    assert text not in repr(token)
    await house.unit(store.revoke_token, house.account, token.id)
    assert not (await house.read(store.find_token, text)).allows("messages:read", end - 1)
    assert await house.read(store.find_token, text + "x") is None


def test_nothing_records_when_a_token_was_last_used():
    assert not [field.name for field in fields(store.Token) if "used" in field.name]


def test_digest_takes_text_that_no_encoding_does():
    assert len(digest("\ud800")) == 32
