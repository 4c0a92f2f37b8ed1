"""
NAME
    live - push events over WebSocket

SYNOPSIS
    mailfarm live

DESCRIPTION
    Serves the WebSocket /v1/events: the changes of mailboxes as they happen, in order, each at least once to a consumer
    and never twice on one connection. A consumer that was away goes on where it was, by cursor.

    The protocol: one JSON object a text frame.

    We begin:       {"type": "hello", "heartbeat": seconds, "auth": bool}
                    "auth": true asks for a token within 10 s. One in an Authorization header of the handshake
                    does instead. Another token of the same account may follow on the same connection, if it has
                    the scopes for what the connection follows by then.

    you say:        {"op": "auth", "token": T}
    we answer:      {"type": "authenticated"}

    you say:        {"op": "subscribe", "mailbox": ID, "after": N, "filter": {"from", "to", "subject", "contains"}}
                    `after` and `filter` may be left out: from now on, everything. A second one replaces the first;
                    one that is refused leaves the first as it was.
    we answer:      {"type": "subscribed", "mailbox": ID, "cursor": N}
    and then:       {"type": "filed" | "seen" | "deleted" | "expired", "mailbox": ID, "seq": N + 1, ...}
                    events as REST shows them. A filter keeps back messages that do not match, nothing else.
                    A `filed` with "gone": true is of a message that has been deleted since: its `message` holds
                    the id, the mailbox and the number, all else is empty. A filter keeps these back.
    or:             {"type": "resync", "mailbox": ID, "oldest": N, "cursor": N}
                    what you ask for is no longer kept. List the mailbox and subscribe after `cursor`.
    at its end:     {"type": "mailbox-closed", "mailbox": ID, ...}

    you say:        {"op": "unsubscribe", "mailbox": ID}
    we answer:      {"type": "unsubscribed", "mailbox": ID}

    you say:        {"op": "watch"}
    we answer:      {"type": "watching"}
    and then:       {"type": "mailbox-opened" | "mailbox-closed", "mailbox": ID, "address", ...}
                    {"type": "mailbox", "mailbox": Mailbox} soon after something in one of your mailboxes has changed.
                    These are hints: they are not numbered, cannot be resumed, and one may be lost. The next change
                    of the mailbox brings another. Ask REST when you connect; subscribe to what must not be missed.
                    Where thousands watch an account they come less often, but at least every two seconds.
                    Another {"type": "watching"} later says that some may have been lost: ask REST again.

    you say:        {"op": "ping"}
    we answer:      {"type": "pong"}

    what went wrong {"type": "problem", "problem": "/v1/problems/<name>", "title", "status", "detail", "op", "mailbox"}
                    `op` and `mailbox` are yours, as far as they could be read.

    What you say is worked on in order. Both sides ping (RFC 6455 §5.5.2); a peer that says nothing from
    one ping of ours to the next is dropped. A message may have 64 KiB, a connection 100 subscriptions.

    Frames leave at once. Where thousands follow one mailbox, a hundred of them are told, then others have their turn,
    and what happens meanwhile is told together; pings go out in the same way. While a client takes nothing its frames
    are gathered; past 256 KiB its feeds pause, and catch up from the database. A client that takes less than 64 KiB of
    what waits for it in 15 s is dropped. When 64 MiB wait for all clients together, feeds pause at once whose client
    does not take what there is. Pings are not answered while a client does not take what there is.

    A client address, and a token, may have only so many WebSockets open if MAILFARM_LIMITS says so: then 429 in the
    handshake, or 4429 after "auth"; a connection counts for each token it has shown, 20 at most. A token that is
    revoked ends its connections at once, or within five seconds where the bus has lost it.

    Close codes: 1001 the service stops; 1009 a message is too large; 4008 too slow: connect again and go on after the
    last `seq` you had; 4401 the token is missing, unknown or has ended; 4429 too much at once.

    By itself it needs the cache and the database: see mailfarm help process.

SETTINGS
    MAILFARM_LIVE_LISTEN           where to serve, or off: then the API does, if it runs in the same process
    MAILFARM_LIVE_MAX_CONNECTIONS  open WebSockets, and connections on a port of their own; above it 503
    MAILFARM_LIVE_HEARTBEAT        seconds between pings

DIAGNOSTICS
    A WebSocket of <peer> was refused: <reason>
        Its Host, Origin or token was not good, too many are open, or the database does not answer.
    A slow consumer was dropped: <peer>
        It took less than 64 KiB in 15 s. It can go on by cursor.
    mailfarm_live_connections, mailfarm_live_subscriptions, mailfarm_live_frames_total, mailfarm_live_dropped_total
    mailfarm_live_http_connections, mailfarm_live_http_refused_total, mailfarm_live_http_cut_total
        Metrics; the latter of connections on its own port that are no WebSocket yet (mailfarm help api).
"""

from .service import Live

__all__ = ["Live"]
