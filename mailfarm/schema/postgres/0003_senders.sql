-- compatible_from: 1
-- Who asks for mail from an address means the From header's or the envelope's: one is found by message_from, the other,
-- where it is not the same, by this.
create index message_sender on message (mailbox, sender, seq) where sender <> from_key;
