"""Opening a SQLite database: one owner, one schema, and settings under which a commit is a promise.

- ``Owner`` holds an advisory lock on ``<database>.lock``, so that a second mailfarm on the same folder is told so
  at once. The lock dies with its process.
- ``connect`` gives a connection in WAL mode. With ``synchronous=FULL`` SQLite calls fdatasync on the log in every
  commit before it returns; ``fullfsync`` does the same where fsync alone does not reach the disk (macOS).
- ``migrate`` runs the files of ``schema/sqlite`` that the database has not seen, each in one transaction.
- ``understandable`` turns what sqlite3 raises into the errors of the ports.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from mailfarm.errors import DatabaseUnavailable, SchemaMismatch

APPLICATION_ID = 0x6D66726D
"""``mfrm`` in the header of our files (PRAGMA application_id), for file(1) and for ``migrate``."""

PAGE = 4096
_TEMPORARY = "mailfarm-ephemeral-"
_YOUNG = 60.0  # seconds in which a folder may not be locked yet by who has just made it
SCHEMA = Path(__file__).parent.parent / "schema" / "sqlite"


class DatabaseFull(DatabaseUnavailable):
    """The disk, or the limit set on the database, has no room."""


class Owner:
    """The right to be the only mailfarm on a database file. Raises DatabaseUnavailable when another has it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            process = os.read(self._file, 20).decode("ascii", "replace").strip()
            os.close(self._file)
            raise DatabaseUnavailable(
                f"{path} is in use by another mailfarm{f' (process {process})' if process else ''};"
                " stop that one or choose another folder"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let another have it. The file stays: removing it would race with whoever is about to lock it."""
        os.close(self._file)


def temporary_folder() -> Path:
    """A private folder for a database that is not to be kept. Those of processes that were killed are removed: mail
    does not stay behind in /tmp."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        # any of them may go while we look: its owner ends, or another one cleans up
        with contextlib.suppress(OSError, DatabaseUnavailable):
            for lock in list(folder.glob("*.lock")):
                if lock.stat().st_uid == os.getuid() and time.time() - lock.stat().st_mtime > _YOUNG:
                    Owner(lock.with_suffix("")).release()
                    shutil.rmtree(folder)
    return Path(tempfile.mkdtemp(prefix=_TEMPORARY))


def connect(path: Path, *, busy_timeout: float, cache: int, durable: bool, readable_only: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any one thread at a time. ``cache`` is in octets.

    Raises sqlite3.Error, OSError, DatabaseUnavailable.
    """
    # Mail is nobody else's to read: made here, or SQLite would make it with the umask. Its log gets the same mode.
    # Only if it is not there: closing a file drops every lock the process has on it (fcntl), SQLite's among them.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        connection.execute(f"PRAGMA page_size={PAGE}")
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise DatabaseUnavailable(f"the disk of {path} cannot hold a database in WAL mode (it is {mode})")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        connection.execute("PRAGMA fullfsync=ON")
        connection.execute("PRAGMA checkpoint_fullfsync=ON")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size={-(cache // 1024)}")
        connection.execute("PRAGMA temp_store=MEMORY")
        # What is deleted is overwritten with zeros. FAST does so only where the page is written anyway, and leaves most
        # of a body in pages that are free; ON writes those once more, a tenth of the store's rate.
        # Neither clears what a B-tree page keeps in its gap when SQLite moves rows to a neighbour: up to a page of a
        # deleted row, for a few rows in a thousand, until that page is next rebuilt or free.
        connection.execute("PRAGMA secure_delete=ON")
        # No mmap: an I/O error in mapped pages is a SIGBUS, not an exception. No automatic checkpoint: see Engine.
        connection.execute("PRAGMA mmap_size=0")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(f"PRAGMA journal_size_limit={64 * 1024 * 1024}")
        if readable_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path, schema: Path = SCHEMA) -> int:
    """Bring the schema to the newest version and return that. Raises SchemaMismatch, sqlite3.Error."""
    scripts = sorted((int(file.name[:4]), file) for file in schema.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    newest = scripts[-1][0]
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise SchemaMismatch(f"{path} is a SQLite database, but not one of mailfarm's; choose another file")
    if version > newest:
        raise SchemaMismatch(
            f"{path} has schema version {version}, and this mailfarm knows versions up to {newest};"
            " start a newer mailfarm or choose another folder"
        )
    for number, file in scripts:
        if number > version:
            _apply(connection, number, file.read_text("utf-8"))
    return newest


def _apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={number};COMMIT;"
        )
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash. SQLite does this for its journals, not for a new database."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_AWAY = {
    sqlite3.SQLITE_BUSY: "the database is locked by another program",
    sqlite3.SQLITE_LOCKED: "the database is locked by another program",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_READONLY: "the database cannot be written",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "the database's locks do not work",
    sqlite3.SQLITE_NOTADB: "the file is not a database",
}


def understandable(error: BaseException) -> BaseException:
    """The port's error for what sqlite3 raised; everything else, and a mistake in the SQL, as it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary result code
    if code == sqlite3.SQLITE_FULL:
        return DatabaseFull(f"there is no room left for the database ({error})")
    if code in _AWAY:
        return DatabaseUnavailable(f"{_AWAY[code]} ({error})")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return DatabaseUnavailable("the database is closed")
    return error
