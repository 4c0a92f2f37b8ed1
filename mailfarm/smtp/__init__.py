"""The SMTP protocol without I/O: octets in, requests out; answers in, octets out."""
