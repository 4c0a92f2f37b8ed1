# PostgreSQL from Debian's packages, run as 999:999, with the variables of the official image that the stack uses.
ARG BASE
FROM ${BASE}
ADD postgres.tar /
COPY postgres-start /usr/local/bin/docker-entrypoint.sh
ENV PGDATA=/var/lib/postgresql/data \
    PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
RUN ldconfig \
 && { grep -q '^postgres:' /etc/passwd || echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >> /etc/passwd; } \
 && { grep -q '^postgres:' /etc/group || echo 'postgres:x:999:' >> /etc/group; } \
 && mkdir -p "$PGDATA" /var/run/postgresql && chown -R 999:999 /var/lib/postgresql /var/run/postgresql \
 && chmod 700 "$PGDATA" && chmod 3777 /var/run/postgresql && postgres --version
LABEL org.opencontainers.image.title="mailfarm-postgres" \
      org.opencontainers.image.description="PostgreSQL from Debian's packages"
USER 999:999
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
