"""What the core says on its own account. Everything else is the host's answer."""

from __future__ import annotations

from mailfarm.mail.reply import Reply

OK = Reply(250, "2.0.0", "Ok")
BYE = Reply(221, "2.0.0", "Bye", close=True)
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
HELP = Reply(214, "2.0.0", "RFC 5321 is the manual; the answer to EHLO says what is offered")
CANNOT_VERIFY = Reply(252, "2.5.0", "Cannot verify the user; send the mail and see")

# syntax
UNKNOWN = Reply(500, "5.5.1", "Command unknown")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
AUTH_LINE_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line too long")  # RFC 4954 §4
BAD_LINE = Reply(500, "5.5.2", "A command ends with CR LF and has no other CR, LF or NUL", close=True)
NO_ARGUMENT = Reply(501, "5.5.4", "No argument allowed")
NEEDS_ARGUMENT = Reply(501, "5.5.4", "An argument is needed")
HELLO_NEEDS_DOMAIN = Reply(501, "5.5.4", "Say EHLO or HELO with one domain or address literal")
NOT_SMTP = Reply(554, "5.7.0", "This is an SMTP server", close=True)

# sequence, RFC 5321 §4.1.4
HELLO_FIRST = Reply(503, "5.5.1", "EHLO or HELO first")
EHLO_FIRST = Reply(503, "5.5.1", "EHLO first")
MAIL_FIRST = Reply(503, "5.5.1", "MAIL first")
RCPT_FIRST = Reply(503, "5.5.1", "RCPT first")
NO_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")  # RFC 2920 §3.1
MAIL_NESTED = Reply(503, "5.5.1", "MAIL was given already; RSET first")
IN_TRANSACTION = Reply(503, "5.5.1", "Not in a mail transaction; RSET first")
CONTENT_BEGUN = Reply(503, "5.5.1", "BDAT has begun; go on with BDAT, or RSET first")  # RFC 3030 §2

# limits
TOO_BIG = Reply(552, "5.3.4", "Message is larger than this server takes")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients; send the others in another transaction")
TOO_MANY_TRANSACTIONS = Reply(421, "4.7.0", "Too many transactions in this session; connect again", close=True)
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors", close=True)
TIMED_OUT = Reply(421, "4.4.2", "Time-out; closing the connection", close=True)
FULL = Reply(421, "4.3.2", "Too many connections; try again later", close=True)
SHUTTING_DOWN = Reply(421, "4.3.2", "Shutting down; try again soon", close=True)

# content
BARE = Reply(550, "5.6.0", "Content has a CR or LF on its own, or a NUL", close=True)
TEXT_LINE_TOO_LONG = Reply(500, "5.5.2", "A line of the content is too long")
TOO_BIG_TO_READ = Reply(552, "5.3.4", "That is more than this server reads; closing the connection", close=True)
BDAT_SYNTAX = Reply(501, "5.5.4", "Say BDAT with a size and perhaps LAST", close=True)
NO_CHUNKING = Reply(502, "5.5.1", "BDAT is not offered here")

# STARTTLS and AUTH
TLS_ALREADY = Reply(503, "5.5.1", "TLS is active already")
TLS_AFTER_AUTH = Reply(503, "5.5.1", "STARTTLS comes before AUTH")
AUTH_ALREADY = Reply(503, "5.5.1", "Authenticated already")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "AUTH needs TLS here; STARTTLS first")
AUTH_SYNTAX = Reply(501, "5.5.4", "Say AUTH with a mechanism and perhaps an initial response")
AUTH_UNKNOWN = Reply(504, "5.5.4", "Authentication mechanism unknown")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_MALFORMED = Reply(501, "5.5.2", "Not base64, or not what the mechanism wants")
AUTH_OTHER_IDENTITY = Reply(535, "5.7.8", "Authentication credentials invalid")
TOO_MANY_FAILURES = Reply(421, "4.7.0", "Too many failed authentications", close=True)
TLS_READY = Reply(220, "2.0.0", "Ready to start TLS")
NO_TLS = Reply(454, "4.7.0", "TLS is not available now; try again later")  # RFC 3207 §4
