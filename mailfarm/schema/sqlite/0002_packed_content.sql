-- Content is stored packed (mailboxes/packing.py), knows how long it is kept, and is counted where its messages are.
-- What the first schema stored becomes plain JSON in place of a frame, and pieces that are not packed: both are read as
-- before. The tables are made anew, children first: to drop a parent would delete its children's rows.

create table content_2 (
    id         text primary key,
    until      integer not null,                     -- the end of the last retention among its messages; 2^63-1: none
    account    text not null references account (id) on delete cascade,
    size       integer not null,                     -- octets, without the trace
    sha256     blob not null,
    stored_at  integer not null,
    trace      blob not null,                        -- our Received header, shown above the content
    chunks     integer not null,                     -- its rows in content_chunk; 0: it stands in data, behind the detail
    detail     integer not null,                     -- octets of detail in data, once unpacked
    data       blob not null                         -- a zstd frame, or plain JSON
);

create table content_chunk_2 (
    content    text not null references content_2 (id) on delete cascade,
    number     integer not null,
    until      integer not null,                     -- the content's
    packed     integer not null,                     -- 1: a zstd frame
    data       blob not null,
    primary key (content, number)
);

-- until is the content's, to find it with; shared is 1 where other messages were made of the same content.
create table message_2 (
    id           text primary key,
    mailbox      text not null references mailbox (id) on delete cascade,
    content      text not null references content_2 (id),
    until        integer not null,
    size         integer not null,
    shared       integer not null,
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

insert into content_2
select id, 9223372036854775807, account, size, sha256, stored_at, trace,
    (select count(*) from content_chunk where content_chunk.content = content.id),
    length(cast(json as blob)), cast(json as blob)
from (
    select content.*, json_object(
        'envelope', json(envelope), 'origin', json(origin), 'head', json(head), 'parts', json(parts),
        'text', body, 'html', html, 'visible', visible
    ) as json from content
) as content;

insert into content_chunk_2 select content, number, 9223372036854775807, 0, data from content_chunk;

insert into message_2
select id, mailbox, content, 9223372036854775807,
    (select size from content where content.id = message.content),
    exists (select 1 from message as other where other.content = message.content and other.id <> message.id),
    seq, received_at, expires_at, seen, sender, from_key, summary, message_id, duplicate_of
from message;

drop table message;
drop table content_chunk;
drop table content;
alter table content_2 rename to content;
alter table content_chunk_2 rename to content_chunk;
alter table message_2 rename to message;

create index content_until on content (until) where until < 9223372036854775807;
create unique index message_seq on message (mailbox, seq);
create index message_from on message (mailbox, from_key, seq);
create index message_content on message (content);
create index message_expires on message (expires_at) where expires_at is not null;
