-- compatible_from: 1
-- Who writes a message or an event holds its mailbox's row locked until the unit ends (mailboxes/changes.py), so the
-- mailbox is there: to look for it once more at each row was a sixth of what filing cost. What is in a mailbox goes with
-- it, as before.
lock table mailbox, message, event in access exclusive mode;  -- in the order in which who files locks them
alter table message drop constraint message_mailbox_fkey;
alter table event drop constraint event_mailbox_fkey;
create function mailbox_gone() returns trigger language plpgsql as $$
begin
    delete from message where mailbox = old.id;
    delete from event where mailbox = old.id;
    return null;
end
$$;
create trigger mailbox_gone after delete on mailbox for each row execute function mailbox_gone();
