-- The first schema. Never edited after release: changes are new files.
-- Ids are text (see ids.py). Times are microseconds since 1970, UTC. Every row has an account, directly or by its key.

create table account (
    id          text primary key,
    name        text not null unique,
    created_at  integer not null
) without rowid;

-- What SMTP AUTH asks for. The secret is made by machine and never stored: only its SHA-256 and a SCRAM-SHA-256
-- verifier (RFC 5802 §3) are.
create table credential (
    id            text primary key,
    account       text not null references account (id) on delete cascade,
    name          text not null unique,              -- the SMTP user name
    purpose       text not null check (purpose in ('capture', 'send')),
    mailbox       text references mailbox (id) on delete cascade,   -- where capture files; null: by recipient
    secret_sha256 blob not null,
    scram         text not null,                     -- SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey
    created_at    integer not null,
    expires_at    integer,
    revoked_at    integer
) without rowid;
create index credential_mailbox on credential (mailbox);
create index credential_account on credential (account);

-- What the API asks for.
create table token (
    id            text primary key,
    account       text not null references account (id) on delete cascade,
    name          text not null,
    secret_sha256 blob not null unique,
    scopes        text not null,                     -- parted by spaces, as in RFC 6749 §3.3
    created_at    integer not null,
    expires_at    integer,
    revoked_at    integer
) without rowid;
create index token_account on token (account);

-- seq is the last change number given out; events above oldest are kept (cursor < oldest means: resync).
create table mailbox (
    id          text primary key,
    account     text not null references account (id) on delete cascade,
    address     text not null,                       -- as it was asked for
    address_key text not null unique,                -- as it is compared: see mail/address.py
    kind        text not null check (kind in ('sandbox', 'disposable', 'permanent')),
    created_at  integer not null,
    starts_at   integer not null,
    ends_at     integer,                             -- null: never
    retention   integer,                             -- seconds a message is kept; null: as long as the mailbox
    seq         integer not null default 0,
    oldest      integer not null default 0,
    messages    integer not null default 0,
    unseen      integer not null default 0
) without rowid;
create index mailbox_account on mailbox (account, id);
create index mailbox_ends on mailbox (ends_at) where ends_at is not null;

-- Tables that hold mail keep their rowid: their rows are large, and what is deleted from such a table leaves less behind
-- in its pages.

-- Content, once for each spool id (which is its id), and what parsing it gave. Shared by the messages it became.
create table content (
    id         text primary key,
    account    text not null references account (id) on delete cascade,
    size       integer not null,                     -- octets, without the trace
    sha256     blob not null,
    trace      blob not null,                        -- our Received header, shown above the content
    envelope   text not null,                        -- JSON: sender, recipients with their DSN parameters, body, ...
    origin     text not null,                        -- JSON
    head       text not null,                        -- JSON: what a reader's detail view shows besides the summary
    parts      text not null,                        -- JSON: the part tree
    body       text not null,                        -- the text part, decoded, up to a cap
    html       text not null,                        -- the HTML part, decoded, up to a cap, as it came
    visible    text not null,                        -- the HTML part's visible text, for searching
    stored_at  integer not null
);
create index content_account on content (account);

create table content_chunk (
    content    text not null references content (id) on delete cascade,
    number     integer not null,
    data       blob not null,
    primary key (content, number)
);

-- A message: content in a mailbox. seq is the change number at which it was filed.
create table message (
    id           text primary key,
    mailbox      text not null references mailbox (id) on delete cascade,
    content      text not null references content (id),
    seq          integer not null,
    received_at  integer not null,
    expires_at   integer,
    seen         integer not null default 0,
    sender       text not null,                      -- the envelope's sender as it is compared
    from_key     text not null,                      -- the From address as it is compared
    summary      text not null,                      -- JSON: what a list shows (all but seen)
    message_id   text not null,
    duplicate_of text
);
create unique index message_seq on message (mailbox, seq);
create index message_from on message (mailbox, from_key, seq);
create index message_content on message (content);
create index message_expires on message (expires_at) where expires_at is not null;

-- Content-free, and kept longer than any redelivery can come: what has been filed is never filed again, also when its
-- reader has deleted it since.
create table filed (
    spool    text primary key,
    filed_at integer not null
) without rowid;
create index filed_at on filed (filed_at);

-- Every change of a mailbox, with its change number.
create table event (
    mailbox text not null references mailbox (id) on delete cascade,
    seq     integer not null,
    data    text not null,                           -- JSON without content: mailboxes/changes.py
    primary key (mailbox, seq)
) without rowid;

-- The embedded queue. Rows that change are small: what never changes of an entry stands in queue_spool.
create table queue_entry (
    number   integer primary key,                    -- the order of taking
    queue    text not null,
    id       text not null,                          -- the spool id
    state    text not null check (state in ('waiting', 'leased', 'aside')),
    due_at   integer not null default 0,             -- waiting: not before, 0 for at once; leased: the end of the lease
    tries    integer not null default 0,
    fence    text,
    put_at   integer not null,
    size     integer not null,                       -- octets of content
    chunks   text,                                   -- its content in queue_chunk; null: in queue_spool
    reason   text not null default '',
    unique (queue, id)
);
create index queue_due on queue_entry (queue, state, due_at, number);

create table queue_spool (
    number  integer primary key,                     -- the entry's
    spooled text not null,                           -- JSON: everything but the content
    content blob
);

-- Content too large for one row, stored before its entry; without one it is an orphan, swept when the queue opens.
create table queue_chunk (
    queue  text not null,
    chunks text not null,
    number integer not null,
    data   blob not null,
    primary key (queue, chunks, number)
);
