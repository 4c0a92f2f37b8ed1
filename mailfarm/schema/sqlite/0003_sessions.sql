-- A browser's session is a token that was given in exchange for another, its parent, and ends with it.
alter table token add column parent text references token (id) on delete cascade;
create index token_parent on token (parent) where parent is not null;
