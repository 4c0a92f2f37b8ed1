"""Accounts, credentials and tokens in the database. Every function runs inside a unit and awaits only its ``tx``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailfarm.errors import Conflict, Invalid, NotFound
from mailfarm.ids import Ids
from mailfarm.ports import Rows, Tx

from .credential import Credential, Purpose
from .secret import Verifier, digest
from .token import Token, scopes

_NOBODYS = (bytes(32), "-" * 133)  # as long as a real one's secret and SCRAM verifier
_CREDENTIAL = "id, account, name, purpose, mailbox, secret_sha256, scram, created_at, expires_at, revoked_at"
_TOKEN = "id, account, name, scopes, created_at, expires_at, revoked_at, secret_sha256, parent"


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns rows. ``created_at`` is in microseconds."""

    id: str
    name: str
    created_at: int


async def ensure_account(tx: Tx, ids: Ids, name: str) -> Account:
    """The account of this name, made if there is none."""
    await tx.insert("account", ("id", "name", "created_at"), [(ids.new(), name, tx.now)], ignore=True)
    row = await tx.row("select id, name, created_at from account where name = ?", (name,))
    assert row is not None
    return Account(*row)


async def create_credential(
    tx: Tx,
    ids: Ids,
    account: str,
    verifier: Verifier,
    *,
    name: str,
    purpose: Purpose = "capture",
    mailbox: str | None = None,
    expires_at: int | None = None,
) -> Credential:
    """A credential for SMTP. Make ``verifier`` before the unit: see ``secret.new_secret``.

    Raises Invalid (a name that is empty, long or has control characters), Conflict (the name is taken).
    """
    if not 1 <= len(name) <= 255 or not name.isprintable():
        raise Invalid("a credential's name has 1 to 255 printable characters")
    made = Credential(ids.new(), account, name, purpose, mailbox, verifier, tx.now, expires_at)
    row = (made.id, account, name, purpose, mailbox, verifier.sha256, verifier.scram, tx.now, expires_at)
    if not await tx.insert("credential", _CREDENTIAL.split(", ")[:9], [row], ignore=True):
        raise Conflict(f"the credential name {name!r} is taken")
    return made


async def renew_credential(
    tx: Tx, ids: Ids, account: str, verifier: Verifier, *, name: str, mailbox: str
) -> tuple[Credential, bool]:
    """The mailbox's credential of this name with another secret, alive from now on and without an end of its own; and
    whether it was there before, so that an older secret ended. Raises Conflict (the name is another's)."""
    changed = await tx.rows(
        "update credential set secret_sha256 = ?, scram = ?, created_at = ?, expires_at = null, revoked_at = null"
        f" where name = ? and account = ? and mailbox = ? returning {_CREDENTIAL}",
        (verifier.sha256, verifier.scram, tx.now, name, account, mailbox),
    )
    if changed:
        return _credential(changed[0]), True
    return await create_credential(tx, ids, account, verifier, name=name, mailbox=mailbox), False


async def revoke_credentials_of(tx: Tx, account: str, mailbox: str) -> tuple[str, ...]:
    """End the credentials of a mailbox that have not ended yet; their ids."""
    ended = await tx.rows(
        "update credential set revoked_at = ? where account = ? and mailbox = ? and revoked_at is null returning id",
        (tx.now, account, mailbox),
    )
    return tuple(id for (id,) in ended)


async def find_credential(tx: Tx, name: str) -> Credential | None:
    """The credential of this SMTP user name, live or not: ask ``credential.check``, also when there is none."""
    return (await credentials_of(tx, [name]))[name]


async def credentials_of(tx: Tx, names: Sequence[str]) -> dict[str, Credential | None]:
    """The same for some hundred user names at once, with one query."""
    # A row is read and made a value of also where there is none: how long it takes must not tell.
    numbered = ", ".join(f"({number}, ?)" for number in range(len(names)))
    rows = await tx.rows(
        "select n.column1, c.id, coalesce(c.id, '-'), coalesce(c.account, '-'), coalesce(c.name, '-'),"
        " coalesce(c.purpose, 'capture'), coalesce(c.mailbox, '-'), coalesce(c.secret_sha256, ?),"
        " coalesce(c.scram, ?), coalesce(c.created_at, 0), c.expires_at, c.revoked_at, c.mailbox"
        f" from (values {numbered}) as n left join credential c on c.name = n.column2",
        (*_NOBODYS, *names),
    )
    found = [(row[0], row[1], replace(_credential(row[2:-1]), mailbox=row[-1])) for row in rows]
    return {names[number]: credential if id is not None else None for number, id, credential in found}


async def credentials(tx: Tx, account: str, *, after: str = "", limit: int = 100) -> Sequence[Credential]:
    """The account's credentials by id, a page at a time."""
    sql = f"select {_CREDENTIAL} from credential where account = ? and id > ? order by id limit ?"
    return [_credential(row) for row in await tx.rows(sql, (account, after, limit))]


async def revoke_credential(tx: Tx, account: str, id: str) -> None:
    """End a credential now; a second time changes nothing. Raises NotFound."""
    await _revoke(tx, "credential", account, id)


async def create_token(
    tx: Tx, ids: Ids, account: str, text: str, *, name: str, scopes_: Iterable[str], expires_at: int | None = None
) -> Token:
    """Keep a token whose text ``token.new_token`` made. Raises Invalid."""
    if len(name) > 255 or not name.isprintable():
        raise Invalid("a token's name has at most 255 printable characters")
    made = Token(ids.new(), account, name, scopes(scopes_), tx.now, expires_at, None, digest(text))
    row = (made.id, account, name, " ".join(made.scopes), tx.now, expires_at, None, made.secret_sha256)
    await tx.insert("token", _TOKEN.split(", ")[:8], [row])
    return made


async def find_token(tx: Tx, text: str) -> Token | None:
    """The token with this text, live or not: ask ``Token.allows``.

    The look-up is by the digest of 160 random bits: what its time may tell about a digest is of no use to a guesser.
    """
    return (await tokens_of(tx, [digest(text)])).get(digest(text))


async def tokens_of(tx: Tx, digests: Sequence[bytes]) -> dict[bytes, Token]:
    """The same for many at once, by the digests of their texts; those that are not there are left out. A session is
    shown with its parent's end where that is earlier: it never outlives it, whatever its own row says."""
    columns = ", ".join(f"t.{column}" for column in _TOKEN.split(", "))
    sql = (
        f"select {columns}, p.expires_at, p.revoked_at from token t left join token p on p.id = t.parent"
        " where t.secret_sha256 in (select v.column1 from (values ?) as v)"
    )
    (rows,) = await tx.several([(sql, [Rows([(digest,) for digest in digests])])])
    found = (_within(_token(row[:-2]), *row[-2:]) for row in rows)
    return {token.secret_sha256: token for token in found}


async def tokens(tx: Tx, account: str, *, after: str = "", limit: int = 100) -> Sequence[Token]:
    """The account's tokens by id, a page at a time; without the sessions begun with them."""
    sql = f"select {_TOKEN} from token where account = ? and id > ? and parent is null order by id limit ?"
    return [_token(row) for row in await tx.rows(sql, (account, after, limit))]


async def revoke_token(tx: Tx, account: str, id: str) -> None:
    """End a token now, and every session begun with it; a second time changes nothing. Raises NotFound.

    For a unit that begins with this: then it sees the sessions that were begun while it waited for the token's row.
    """
    await tx.lock("token", [id])
    await _revoke(tx, "token", account, id)
    await tx.execute("delete from token where parent = ?", (id,))


async def _revoke(tx: Tx, table: str, account: str, id: str) -> None:
    sql = f"update {table} set revoked_at = coalesce(revoked_at, ?) where account = ? and id = ?"
    if not await tx.execute(sql, (tx.now, account, id)):
        raise NotFound(f"there is no {table} {id}")


def _credential(row: tuple[Any, ...]) -> Credential:
    id, account, name, purpose, mailbox, sha256, scram, created, expires, revoked = row
    return Credential(id, account, name, purpose, mailbox, Verifier(bytes(sha256), scram), created, expires, revoked)


def _within(session: Token, expires_at: int | None, revoked_at: int | None) -> Token:
    ends = [end for end in (session.expires_at, expires_at) if end is not None]
    ended = session.revoked_at if session.revoked_at is not None else revoked_at
    return replace(session, expires_at=min(ends, default=None), revoked_at=ended)


def _token(row: tuple[Any, ...]) -> Token:
    id, account, name, scopes_, created, expires, revoked, sha256, parent = row
    return Token(id, account, name, tuple(scopes_.split()), created, expires, revoked, bytes(sha256), parent)
