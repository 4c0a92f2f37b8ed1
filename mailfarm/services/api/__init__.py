"""
NAME
    api - REST and the web inbox

SYNOPSIS
    mailfarm api

DESCRIPTION
    Serves the REST resources below /v1 (OpenAPI at /v1/openapi.json), the web inbox at /, and /healthz, /readyz and
    /metrics. Where `live` runs in the same process, its WebSocket is at /v1/events.

    Every request must name a Host of ours (but one for /healthz), and an Origin, if there is one, must be the page we
    served: a web page that somebody visits cannot use a farm on that person's machine. There is no CORS. Bodies are
    application/json, up to 1 MiB.

    /healthz, /readyz and /metrics need no token, whatever auth says. By itself this service has only /healthz here and
    all three at MAILFARM_STATUS_LISTEN, unless that is off.

    Where nobody has to sign in (auth none) everything belongs to one account. With auth token each request below /v1
    needs `Authorization: Bearer <token>`, and each route a scope; what belongs to another account is not found. The
    first token is a setting; it makes others at /v1/tokens, and browsers exchange one for a session at /v1/session.

    A token that was found is remembered: for five seconds, or until it is revoked, whichever comes first; never past
    its end. While the database is away, tokens used within the last hour are known; what needs the database, and other
    tokens, are answered 503 with Retry-After.

    Requests may be limited by client address, token and account (mailfarm help limits): then 429 with Retry-After.
    Behind a proxy the client's address is the right-most one in X-Forwarded-For that is no proxy listed in
    MAILFARM_API_FORWARDED_FROM; who is not listed there is the client itself.

    A wait is a request that is answered late; how many waits and event streams may be open at once has a cap. They end
    with the token they came with: at once when it is revoked, or within five seconds where the bus has lost it.

    Where listeners run in the same process (mailfarm dev) one request is worked on at a time, and mail in between; a
    thousand may stand in line, and one more is answered 503 with Retry-After.

    A request must be whole within a minute of its first octet, and its connection may idle for a minute after it. The
    next request on a connection is begun when the answer before it has left. Who takes less than 64 KiB of an answer
    in a minute is cut off. What all connections hold of answers nobody reads (64 MiB) and of requests that are not
    whole (64 MiB) has a cap; past it who made no progress for the longest is cut off. Connections above
    MAILFARM_API_MAX_CONNECTIONS hear 503; when a hundred of these are open, others are closed without a word.

    By itself it needs the cache and the database: see mailfarm help process. What is below /v1/queue needs
    MAILFARM_QUEUE_URL as well; without it, or while the queue is away, that alone is answered 503.

SETTINGS
    MAILFARM_API_LISTEN       where to serve HTTP
    MAILFARM_API_HOSTS        names besides localhost by which browsers and clients may reach it
    MAILFARM_API_AUTH         none or token
    MAILFARM_API_FIRST_TOKEN  a token made valid at start, with every scope
    MAILFARM_API_MAX_CONNECTIONS
                              open connections, WebSockets aside; above it 503
    MAILFARM_API_MAX_WAITS    waits and event streams open at once
    MAILFARM_API_FORWARDED_FROM
                              networks of proxies whose X-Forwarded-For is believed

DIAGNOSTICS
    Incident <id>: <method> <path> failed
        A mistake of ours. The client was told the id and nothing else. Please report it with the traceback.
    The database does not answer: <reason>
        The client was told 503 and to try again.
    api has <n> connections of HTTP open: those above it hear 503
        Said once a minute at most. Clients that keep connections, or somebody who means no good.
    A connection of HTTP was cut: <why>: <address>
        It does not read its answers; or, with many like it, there is no room for what it asks or does not read.
    421 wrong-host in a browser
        Add the name it uses to MAILFARM_API_HOSTS.
    mailfarm_api_requests_total, mailfarm_api_request_seconds, mailfarm_api_open_waits, mailfarm_api_open_streams
        Metrics; and mailfarm_api_in_line where listeners run in the same process. A status of 499 is a client that went
        before it was answered.
    mailfarm_api_http_connections, mailfarm_api_http_refused_total, mailfarm_api_http_cut_total
        Connections open, those above the cap, and those that were cut: late (a request that was not whole in time),
        unread (an answer that was not read), memory (no room).
"""

from .service import Api

__all__ = ["Api"]
