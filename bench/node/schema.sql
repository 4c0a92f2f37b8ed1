-- What the queue design keeps. A message is stored once; each mailbox it went to has a row in delivery.
create table mailbox (id bigserial primary key, address text not null unique);
create table message (
    id           bigserial primary key,
    job          text not null unique,      -- a job that comes again is stored once
    message_id   text not null,
    subject      text not null,
    sender       text not null,
    from_address text not null,
    text         text not null,
    received_at  timestamptz not null,
    size         bigint not null,
    content      bytea not null
);
create table delivery (
    id      bigserial primary key,
    message bigint not null references message (id),
    mailbox bigint not null references mailbox (id)
);
create index delivery_mailbox on delivery (mailbox, id);
