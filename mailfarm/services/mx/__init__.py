"""NAME
    mx - take mail from the internet for our mailboxes

SYNOPSIS
    mailfarm mx

DESCRIPTION
    Listens for SMTP (RFC 5321) and takes mail for mailboxes that live now; nothing else. It never relays, and offers
    no AUTH: those with a credential come to submission.

    A recipient is looked up at RCPT, before any content:

        a mailbox that lives                                    250 2.1.5
        an address of ours without one, or one that has ended   550 5.1.1
        a domain that is none of ours, an address literal       550 5.7.1
        postmaster, at a domain of ours or none, without one    250 2.1.5, for the default mailbox (RFC 5321 §4.5.1)
        user%remote@ours, remote!user@ours, "user@remote"@ours  553 5.7.1
        a mailbox of another account than the one before        452 4.5.3, once more in another transaction
        the database does not answer                            451 4.3.0
        too much mail for the mailbox or its account            450 4.7.1

    A mailbox that lived once is answered like one that never did. One transaction is spooled for one account, hence the
    452: senders take it as "too many recipients" (RFC 5321 §4.5.3.1.10) and send the rest in a transaction of its own.
    The database's clock decides what lives.

    A mailbox that was found is remembered: for five seconds, or until the bus says that it has changed, whichever comes
    first; never past its end. What was not found is not remembered. While the database is away, mailboxes that were
    asked for within the last hour are known and take mail; others are answered 451 4.3.0.

    Before content is let in the queue and the folder for what comes in are asked for room, for the SIZE that was
    declared or else the largest allowed (452 4.3.1). Content is in memory up to 2 MiB, and 64 MiB for all sessions
    together; the rest is in that folder. After its end 250 is said when the queue has confirmed, never earlier; with
    MAILFARM_SPOOL, while no shard of the queue takes mail, when it is synced to this machine's disk. What is refused is
    told to the account whose address it is ("refusals"), sampled; what names no address of ours, to the account of the
    transaction's other recipients, if there is one.

    A client that loses its connection before it hears our 250 sends again (RFC 1047). Both are kept, and the second
    says of which it is a copy (duplicate_of). With MAILFARM_MX_FOLD the second is answered as the first was, and not
    kept, if all of this is so: not one octet came behind the content of the first, or its 250, before its connection
    ended (a client that said QUIT, or anything else, has heard its 250); the second has the same octets and a
    Message-ID, the same sender, recipients, parameters and mailboxes, and comes from the same client within an hour, to
    the same process. 10,000 such endings are remembered; the oldest is forgotten first, and then there is a copy.

    When filing is behind (MAILFARM_BACKLOG_AGE) each client network has the same share of what can be filed; the rest
    is answered 451 4.3.2 at MAIL or DATA, or 421 4.3.2 when it connects: see mailfarm help limits.

    By itself it needs the queue, the cache and the database: see mailfarm help process.

    On SIGTERM: /healthz says 503, and what comes within MAILFARM_LINGER is still taken. Then the port is closed, idle
    sessions hear 421 4.3.2, running transactions finish within MAILFARM_GRACE.
    On SIGHUP: the certificate is read again, for new connections.

SETTINGS
    MAILFARM_MX_LISTEN           where to listen, or off
    MAILFARM_MX_STARTTLS         offer STARTTLS
    MAILFARM_MX_PROXY_FROM       networks whose connections begin with a PROXY header
    MAILFARM_MX_PROXY_V1         also understand version 1 of it
    MAILFARM_MX_MAX_CONNECTIONS  open sessions; above it 421 4.3.2
    MAILFARM_MX_MAX_RECIPIENTS   recipients a transaction; past it 452 4.5.3
    MAILFARM_MX_FOLD             take mail that is sent again, as its 250 was not heard, for the one there is
    MAILFARM_HOSTNAME, MAILFARM_DOMAINS, MAILFARM_MAX_SIZE, MAILFARM_CERTIFICATE, MAILFARM_KEY, MAILFARM_GRACE,
    MAILFARM_LIMITS, MAILFARM_LINGER, MAILFARM_BACKLOG, MAILFARM_BACKLOG_AGE, MAILFARM_SPOOL

    A client (an IPv4 address, an IPv6 /64) may begin 600 connections a minute and have 500 sessions at once; then
    421 4.7.0. Loopback is not counted. MAILFARM_LIMITS changes this, and limits messages: see mailfarm help limits.
    The hundredth unknown recipient ends a session with 421 4.7.0.

DIAGNOSTICS
    waiting for the database: ..., waiting for the queue: ...
                                 at the start, every five seconds until it has answered; the line has the reason
    cannot listen on ...         the port is in use or not ours to take; the line names the setting
    mail is refused before its content, message ... found no room
                                 the disk is at its reserve, the queue at its cap or slow, or the folder for content
                                 that comes in is full; the line says which: make room, or look why inbound is behind.
                                 The first is said at most every ten seconds for each reason, with how many there were
    Mail comes in faster than it is filed: ... Each may bring in ... a second, or less
                                 filing is behind: look at inbound and the database; "Filing keeps up again" ends it
    message ... was not confirmed
                                 the queue did not answer; the sender tries again
    Rcpt of ... failed           a look-up failed; the line has the reason
    The database does not answer: ... Each mailbox that is known serves on
                                 said once an outage; mail for other mailboxes is answered 451
    PROXY header of ... refused  a listed proxy sends no header, or a damaged one
    metrics mailfarm_mx_...      sessions, sessions_open, recipients, messages, content_octets, timeouts, aborted,
                                 lookups (remembered, asked, failed, away), folded, share, over_share
"""

from .service import Mx

__all__ = ["Mx"]
