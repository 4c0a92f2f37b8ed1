# Traefik's own static binary and the certificates it checks others by; nothing else, not even a shell.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY traefik /usr/local/bin/traefik
LABEL org.opencontainers.image.title="mailfarm-traefik" \
      org.opencontainers.image.description="Traefik's binary"
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/traefik"]
