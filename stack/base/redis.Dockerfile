# Redis from Debian's packages, run as 999:999 like the official image. Its configuration comes from the stack.
ARG BASE
FROM ${BASE}
ADD redis.tar /
RUN ldconfig && mkdir -p /data && chown 999:999 /data && redis-server --version
LABEL org.opencontainers.image.title="mailfarm-redis" \
      org.opencontainers.image.description="Redis from Debian's packages"
USER 999:999
WORKDIR /data
VOLUME /data
ENTRYPOINT []
CMD ["redis-server"]
