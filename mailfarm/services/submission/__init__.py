"""NAME
    submission - take mail from those with a credential, to capture or to send

SYNOPSIS
    mailfarm submission

DESCRIPTION
    Listens for SMTP submission (RFC 6409) on up to three ports:

        capture    no credential needed; AUTH is honoured if the client has one. On loopback also in plain text, so
                   that a test suite needs no TLS; STARTTLS only if set, because many clients use it when they see it
                   and then refuse a certificate they do not trust
        starttls   STARTTLS, and AUTH after it; MAIL before AUTH is 530 5.7.0
        tls        the same inside TLS from the start (RFC 8314)

    The credential decides where mail goes:

        capture, with a mailbox       every recipient is filed in that mailbox; once it has ended 550 5.1.1
        capture, without a mailbox    by recipient, as without a credential
        no credential (capture port)  the live mailbox whose address the recipient is, else the default mailbox
        send                          550 5.7.1: sending is not available yet

    By recipient never leads into a mailbox of another account. Any recipient address with the right syntax is taken:
    captured mail goes nowhere.

    A wrong secret and an unknown user are answered alike, 535 5.7.8, after the same work. Three failures in a session
    end it with 421. Ten failures of a client, or fifty of a user name, in five minutes are enough: then 421 or
    454 4.7.0. Failures of clients on loopback are not counted, nor is their success barred by others' failures.

    A mailbox or a credential that was found is remembered: for five seconds, or until the bus says that it has changed,
    whichever comes first; never past its end. Only a right secret is answered from memory: before 535 the database is
    always asked. While it is away, those that were asked for within the last hour are known; with others AUTH is
    answered 454 4.7.0, and RCPT 451 4.3.0. A password that the API has renewed or revoked opens no session any more;
    those that are signed in go on until they end.

    Before content the queue and the folder for what comes in are asked for room, for the SIZE that was declared or else
    the largest allowed (452 4.3.1). Content is in memory up to 2 MiB, and 64 MiB for all sessions together; the rest
    is in that folder. 250 is said when the queue has confirmed, never earlier; with MAILFARM_SPOOL, while no shard of
    the queue takes mail, when it is synced to this machine's disk.

    When filing is behind (MAILFARM_BACKLOG_AGE) each account has the same share of what can be filed, and each of its
    credentials an equal part of that; without a credential it is the client's network. The rest is answered 451 4.3.2
    at MAIL or DATA; when it is far behind, who connects hears 421 4.3.2: see mailfarm help limits.

    By itself it needs the queue, the cache and the database: see mailfarm help process.

    On SIGTERM: /healthz says 503, and what comes within MAILFARM_LINGER is still taken. Then the ports are closed, idle
    sessions hear 421 4.3.2, running transactions finish within MAILFARM_GRACE.
    On SIGHUP: the certificate is read again, for new connections.

SETTINGS
    MAILFARM_SUBMISSION_CAPTURE           where to listen for open capture, or off
    MAILFARM_SUBMISSION_STARTTLS          where to listen for submission with STARTTLS, or off
    MAILFARM_SUBMISSION_TLS               where to listen for submission inside TLS, or off
    MAILFARM_SUBMISSION_CAPTURE_STARTTLS  offer STARTTLS on the capture port
    MAILFARM_SUBMISSION_NORMALIZE         make CR LF of bare line feeds instead of refusing them
    MAILFARM_SUBMISSION_PROXY_FROM        networks whose connections begin with a PROXY header
    MAILFARM_SUBMISSION_PROXY_V1          also understand version 1 of it
    MAILFARM_SUBMISSION_MAX_CONNECTIONS   open sessions of each port; above it 421 4.3.2
    MAILFARM_SUBMISSION_MAX_RECIPIENTS    recipients a transaction; past it 452 4.5.3
    MAILFARM_HOSTNAME, MAILFARM_MAX_SIZE, MAILFARM_CERTIFICATE, MAILFARM_KEY, MAILFARM_GRACE, MAILFARM_LIMITS,
    MAILFARM_LINGER, MAILFARM_BACKLOG, MAILFARM_BACKLOG_AGE, MAILFARM_SPOOL

    A client (an IPv4 address, an IPv6 /64) may begin 600 connections a minute and have 500 sessions at once; then
    421 4.7.0. Loopback is not counted. MAILFARM_LIMITS changes this, and limits messages, by client, credential,
    mailbox and account, with 450 or 451 4.7.1: see mailfarm help limits.

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
                                 the queue did not answer; the client has to send again
    The database does not answer: ... Each mailbox that is known serves on
                                 said once an outage, also of credentials; those that are not known are answered 4yz
    AUTH failed                  a wrong user or secret; the line has the client, and the user if there is such a one
    PROXY header of ... refused  a listed proxy sends no header, or a damaged one
    metrics mailfarm_submission_...
                                 sessions, sessions_open, logins, recipients, messages, content_octets, timeouts,
                                 lookups (remembered, asked, failed, away), share, over_share
"""

from mailfarm.inbound.capture import DefaultMailbox

from .service import Submission

__all__ = ["DefaultMailbox", "Submission"]
