"""Mailboxes and their messages: lifetimes, filing, change numbers, search, waiting. Pure, except through ports."""
