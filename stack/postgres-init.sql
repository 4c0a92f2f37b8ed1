-- Run once, at the first start of an empty volume, as the superuser: what mailfarm is in PostgreSQL. It owns its
-- database, and may make another beside it and end sessions in it, which stack/restore does. It is not the superuser:
-- who takes over a service reads and writes mail, and neither the server's files nor its programs.
\set password `tr -d '\r\n' </run/secrets/database_password`
create role mailfarm login createdb in role pg_signal_backend password :'password';
create database mailfarm owner mailfarm template template0;
-- The superuser has none, so nobody is it over the network: docker exec -it CONTAINER psql -U postgres
alter role postgres password null;
