-- compatible_from: 1
-- The first schema. Never edited after release: changes are new files, and their first line names the oldest version
-- whose programs can still work with them (docs/decisions: one schema, two versions).
-- Ids are text (see ids.py). Times are microseconds since 1970, UTC. Every row has an account, directly or by its key.
-- Whatever is compared or ordered has the collation "C": octets, as SQLite compares. Yes and no are 1 and 0, so that the
-- SQL above is the same for both engines. The embedded queue's tables are SQLite's alone.

create table account (
    id          text collate "C" primary key,
    name        text collate "C" not null unique,
    created_at  bigint not null
);

-- seq is the last change number given out; events above oldest are kept (cursor < oldest means: resync).
-- Every filing updates the row: room in its page keeps its versions together and its indexes untouched (HOT).
create table mailbox (
    id          text collate "C" primary key,
    account     text collate "C" not null references account (id) on delete cascade,
    address     text collate "C" not null,           -- as it was asked for
    address_key text collate "C" not null unique,    -- as it is compared: see mail/address.py
    kind        text collate "C" not null check (kind in ('sandbox', 'disposable', 'permanent')),
    created_at  bigint not null,
    starts_at   bigint not null,
    ends_at     bigint,                              -- null: never
    retention   bigint,                              -- seconds a message is kept; null: as long as the mailbox
    seq         bigint not null default 0,
    oldest      bigint not null default 0,
    messages    bigint not null default 0,
    unseen      bigint not null default 0
) with (fillfactor = 50);
create index mailbox_account on mailbox (account, id);
create index mailbox_ends on mailbox (ends_at) where ends_at is not null;

-- What SMTP AUTH asks for. The secret is made by machine and never stored: only its SHA-256 and a SCRAM-SHA-256
-- verifier (RFC 5802 §3) are.
create table credential (
    id            text collate "C" primary key,
    account       text collate "C" not null references account (id) on delete cascade,
    name          text collate "C" not null unique,  -- the SMTP user name
    purpose       text collate "C" not null check (purpose in ('capture', 'send')),
    mailbox       text collate "C" references mailbox (id) on delete cascade,   -- where capture files; null: by recipient
    secret_sha256 bytea not null,
    scram         text collate "C" not null,         -- SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey
    created_at    bigint not null,
    expires_at    bigint,
    revoked_at    bigint
);
create index credential_mailbox on credential (mailbox);
create index credential_account on credential (account, id);

-- What the API asks for.
create table token (
    id            text collate "C" primary key,
    account       text collate "C" not null references account (id) on delete cascade,
    name          text collate "C" not null,
    secret_sha256 bytea not null unique,
    scopes        text collate "C" not null,         -- parted by spaces, as in RFC 6749 §3.3
    created_at    bigint not null,
    expires_at    bigint,
    revoked_at    bigint,
    -- a browser's session is a token that was given in exchange for another, its parent, and ends with it
    parent        text collate "C" references token (id) on delete cascade
);
create index token_account on token (account, id);
create index token_parent on token (parent) where parent is not null;

-- Content, once for each spool id (which is its id), and what parsing it gave, packed (mailboxes/packing.py). Shared by
-- the messages it became.
-- until is when the retention of the last of its messages ends; 2^63-1: it is kept until it is deleted. Each day (UTC)
-- has a partition of its own, made ahead by the sweep (backends/postgres_partitions.py), and is dropped with it. What
-- finds no partition stands in content_rest, and is deleted row by row; nothing fails for want of a partition.
-- Nothing refers to content by a foreign key, or a partition could not be dropped without reading all messages.
create table content (
    id         text collate "C" not null,
    until      bigint not null,
    account    text collate "C" not null,
    size       bigint not null,                      -- octets, without the trace
    sha256     bytea not null,
    stored_at  bigint not null,
    trace      bytea not null,                       -- our Received header, shown above the content
    chunks     integer not null,                     -- its rows in content_chunk; 0: it stands in data, behind the detail
    detail     bigint not null,                      -- octets of detail in data, once unpacked
    data       bytea not null,                       -- a zstd frame
    primary key (id, until)
) partition by range (until);
alter table content alter column data set storage external;    -- packed already
create table content_never partition of content for values from (9223372036854775807) to (maxvalue)
    with (toast_tuple_target = 8160);                -- small mail stays in its row
create table content_rest partition of content default with (toast_tuple_target = 8160);
create index content_rest_until on content_rest (until);

create table content_chunk (
    content    text collate "C" not null,
    number     integer not null,
    until      bigint not null,                      -- the content's
    packed     integer not null,                     -- 1: a zstd frame
    data       bytea not null,
    primary key (content, number, until)
) partition by range (until);
alter table content_chunk alter column data set storage external;
create table content_chunk_never partition of content_chunk for values from (9223372036854775807) to (maxvalue);
create table content_chunk_rest partition of content_chunk default;

-- A message: content in a mailbox. seq is the change number at which it was filed. until is the content's, to find it
-- with; shared is 1 where other messages were made of the same content.
create table message (
    id           text collate "C" primary key,
    mailbox      text collate "C" not null references mailbox (id) on delete cascade,
    content      text collate "C" not null,
    until        bigint not null,
    size         bigint not null,
    shared       integer not null,
    seq          bigint not null,
    received_at  bigint not null,
    expires_at   bigint,
    seen         integer not null default 0,
    sender       text collate "C" not null,          -- the envelope's sender as it is compared
    from_key     text collate "C" not null,          -- the From address as it is compared
    summary      text not null,                      -- JSON: what a list shows (all but seen)
    message_id   text collate "C" not null,
    duplicate_of text collate "C"
) with (fillfactor = 90);
create unique index message_seq on message (mailbox, seq);
create index message_from on message (mailbox, from_key, seq);
create index message_content on message (content);
create index message_expires on message (expires_at) where expires_at is not null;

-- Content-free, and kept longer than any redelivery can come: what has been filed is never filed again, also when its
-- reader has deleted it since.
create table filed (
    spool    text collate "C" primary key,
    filed_at bigint not null
);
create index filed_at on filed (filed_at);

-- Every change of a mailbox, with its change number.
create table event (
    mailbox text collate "C" not null references mailbox (id) on delete cascade,
    seq     bigint not null,
    data    text not null,                           -- JSON without content: mailboxes/changes.py
    primary key (mailbox, seq)
);
