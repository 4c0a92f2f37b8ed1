-- compatible_from: 1
-- The first schema. Never edited after release: changes are new files, and their first line names the oldest version
-- whose programs can still work with them (docs/decisions: one schema, two versions of the program).
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
    revoked_at    bigint
);
create index token_account on token (account, id);

-- Content, once for each spool id (which is its id), and what parsing it gave. Shared by the messages it became.
create table content (
    id         text collate "C" primary key,
    account    text collate "C" not null references account (id) on delete cascade,
    size       bigint not null,                      -- octets, without the trace
    sha256     bytea not null,
    trace      bytea not null,                       -- our Received header, shown above the content
    envelope   text not null,                        -- JSON: sender, recipients with their DSN parameters, body, ...
    origin     text not null,                        -- JSON
    head       text not null,                        -- JSON: what a reader's detail view shows besides the summary
    parts      text not null,                        -- JSON: the part tree
    body       text not null,                        -- the text part, decoded, up to a cap
    html       text not null,                        -- the HTML part, decoded, up to a cap, as it came
    visible    text not null,                        -- the HTML part's visible text, for searching
    stored_at  bigint not null
);
create index content_account on content (account);

create table content_chunk (
    content    text collate "C" not null references content (id) on delete cascade,
    number     bigint not null,
    data       bytea not null,
    primary key (content, number)
);

-- A message: content in a mailbox. seq is the change number at which it was filed.
create table message (
    id           text collate "C" primary key,
    mailbox      text collate "C" not null references mailbox (id) on delete cascade,
    content      text collate "C" not null references content (id),
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
