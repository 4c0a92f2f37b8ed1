-- compatible_from: 1
-- The messages made of one mail have one copy_key: with it in front they stand side by side in the index, not in as many
-- places as there are mailboxes, and whether there is any copy at all is one look.
drop index message_copy;
create index message_copy on message (copy_key, mailbox, seq) where copy_key is not null;
