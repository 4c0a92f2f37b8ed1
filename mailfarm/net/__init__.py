"""The Twisted side: sockets, SMTP sessions, PROXY headers, TLS, logs, and the pages that say how we are."""
