# What stack/backup and stack/restore do beside the stack's Postgres (once.py): a function and its arguments. The folder
# with the dump is HERE (/here); PGHOST, PGUSER and DATABASE say where to work.
# shellcheck shell=bash
set -euo pipefail
umask 077
exec 2>&1
PGPASSWORD=$(cat "${PASSWORD_FILE:-/run/secrets/database_password}")
export PGPASSWORD PGOPTIONS='-c client_min_messages=warning'
fresh=${DATABASE}_restored before=${DATABASE}_before here=${HERE:-/here}

ask() { psql -XAqt -F ' ' -v ON_ERROR_STOP=1 -d "$1" -c "$2"; } # DATABASE SQL

schema_of() { # FILE: the version and compatible_from of each migration in the dump
    pg_restore --data-only --table=mailfarm_schema --file=- "$1" | sed -n '/^COPY/,/^\\\./p' | cut -f 1,4 -s | tr '\t' ' '
}

megabytes() { echo "$(($1 / 1000000)) MB"; }

every_ten_seconds() { # COMMAND...: say what it says as long as the last job runs; then its exit code
    local job=$! began=$SECONDS
    while sleep 1; kill -0 "$job" 2>/dev/null; do
        if [ $(((SECONDS - began) % 10)) = 0 ]; then "$@"; fi
    done
    wait "$job"
}

unseen() {
    echo "a container of user $(id -u) cannot use the file: either the engine that docker talks to is on another machine, and"
    echo "this is to be run on that one, or its folder or the file belongs to another user, for root has no more rights in"
    echo "there than others (after sudo): run this as the one who owns them, or use a folder of user $(id -u)'s"
}

dump() { # NAME: write a dump into a file that is there
    local file=$here/$1 room size version table
    [ -w "$file" ] || { unseen; exit 1; }
    room=$(df -B1 --output=avail "$here" | tail -n 1)
    size=$(size_of "$DATABASE")
    version=$(ask postgres "show server_version")
    if [ "$size" -gt "$room" ]; then
        echo "the database has $(megabytes "$size") and here is room for $(megabytes "$room"): name another folder"
        exit 1
    fi
    echo "PostgreSQL $version, $(megabytes "$size") with its indexes"
    # content is compressed already; the lowest level is enough for the rest
    pg_dump --format=custom --compress=1 --lock-wait-timeout=60s --file="$file" "$DATABASE" &
    every_ten_seconds written "$file"
    pg_restore --list "$file" >/tmp/list
    for table in account mailbox message content_never content_chunk_never filed event mailfarm_schema; do
        grep -q " TABLE DATA [^ ]* $table " /tmp/list || { echo "the dump has no table $table"; exit 1; }
    done
    echo "schema version $(schema_of "$file" | sort -n | tail -n 1 | cut -d ' ' -f 1)"
}
written() { echo "$(megabytes "$(stat -c %s "$1")") written"; }

look() { # NAME SIZE: what is in a dump, and what would go
    local file=$here/$1
    [ -r "$file" ] && [ "$(stat -c %s "$file" 2>/dev/null)" = "$2" ] || { unseen; exit 1; }
    pg_restore --list "$file" >/tmp/list
    sed -n 's/^; *\(Archive created at\|Dumped from database version:\) */\1 /p' /tmp/list
    echo "schema: $(schema_of "$file" | tr ' \n' ': ')"
    echo "now: $(size_of "$DATABASE")"
    echo "before: $(size_of "$before")"
}
size_of() { ask postgres "select pg_database_size(datname) from pg_database where datname = '$1'"; }

load() { # NAME: into a database of its own
    drop "$fresh"
    drop "$before"
    ask postgres "create database \"$fresh\" template template0"
    pg_restore --jobs=2 --exit-on-error --no-owner --no-privileges --dbname="$fresh" "$here/$1" &
    every_ten_seconds loaded
    echo "loaded; looking through it for the planner"
    PGOPTIONS='-c client_min_messages=error' ask "$fresh" "analyze" # of what is the server's own it says that it may not
    echo "it has $(count_of mailbox) mailboxes, $(count_of message) messages"
}
count_of() { ask "$fresh" "select count(*) from $1"; }
loaded() { echo "$(megabytes "$(size_of "$fresh")") loaded"; }

swap() { # the rename waits for the others' sessions to end and lets none begin; meanwhile another session ends them
    local job
    for _ in 1 2 3 4 5; do
        psql -XAqt -v ON_ERROR_STOP=1 --single-transaction -d postgres \
            -c "alter database \"$DATABASE\" rename to \"$before\"" \
            -c "alter database \"$fresh\" rename to \"$DATABASE\"" &
        job=$!
        while kill -0 "$job" 2>/dev/null; do
            ask postgres "select pg_terminate_backend(pid) from pg_stat_activity
                where datname in ('$DATABASE', '$fresh') and usename = current_user" >/dev/null
            sleep 0.2
        done
        if wait "$job"; then return; fi
    done
    exit 1
}

drop() { ask postgres "drop database if exists \"$1\" with (force)"; } # DATABASE
left() { ask postgres "select datname from pg_database where datname = '$fresh'"; }

"$@"
