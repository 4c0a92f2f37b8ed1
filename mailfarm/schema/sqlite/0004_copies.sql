-- What two copies of one message have in common: a digest of Message-ID and content; null where there is no Message-ID.
-- What was filed before has none, and its copies are not marked.
alter table message add column copy_key blob;
create index message_copy on message (mailbox, copy_key, seq) where copy_key is not null;
