#!/bin/sh
# Runs the servers that the arena measures beside: nats-server and PostgreSQL, of Debian's packages, on loopback, in
# folders of the arena's own. What runs in the foreground ends with the arena, whatever ends that.
#
#   servers.sh check nats|postgres          says on standard error why it can't be had
#   servers.sh nats CONFIGURATION           in the foreground
#   servers.sh postgres-own DIR             gives a folder with a key to who runs PostgreSQL
#   servers.sh postgres-init DIR            an empty cluster; its configuration is read from DIR.conf
#   servers.sh postgres-copy DIR PORT       a standby of the cluster at PORT; likewise
#   servers.sh postgres DIR                 in the foreground
#   servers.sh stop PID                     and waits for its end
set -eu
# Nobody's own settings and certificates.
HOME=/nonexistent
export HOME

# PostgreSQL does not run as root. Folders that it is to write to are given to it.
if [ "$(id -u)" = 0 ]; then
    as_postgres="setpriv --reuid=postgres --regid=postgres --init-groups --pdeathsig TERM"
    own() { chown -R postgres "$@"; }
else
    as_postgres="setpriv --pdeathsig TERM"
    own() { :; }
fi

postgres_bin() {
    for bin in /usr/lib/postgresql/*/bin; do
        if [ -x "$bin/postgres" ]; then found=$bin; fi
    done
    if [ -z "${found:-}" ]; then
        echo "PostgreSQL is not installed: apt-get install postgresql" >&2
        exit 1
    fi
    echo "$found"
}

nats_server() {
    command -v nats-server || {
        echo "nats-server is not installed: apt-get install nats-server" >&2
        exit 1
    }
}

command=$1
shift
case $command in
check)
    command -v setpriv > /dev/null || { echo "setpriv is not installed: apt-get install util-linux" >&2; exit 1; }
    case $1 in
    nats) nats_server > /dev/null ;;
    postgres)
        postgres_bin > /dev/null
        if [ "$(id -u)" = 0 ] && ! id postgres > /dev/null 2>&1; then
            echo "there is no user postgres, and it does not run as root" >&2
            exit 1
        fi
        ;;
    esac
    ;;
nats)
    exec setpriv --pdeathsig TERM "$(nats_server)" -c "$1"
    ;;
postgres-own)
    own "$1"
    chmod 600 "$1"/*.key
    ;;
postgres-init)
    mkdir "$1"
    own "$1"
    cd /
    $as_postgres "$(postgres_bin)/initdb" -D "$1" -A trust -U arena --no-sync --no-instructions -E UTF8 --locale C > /dev/null
    cat "$1.conf" >> "$1/postgresql.conf"
    echo "hostssl replication all 127.0.0.1/32 trust" >> "$1/pg_hba.conf"
    ;;
postgres-copy)
    mkdir -m 700 "$1"
    own "$1"
    cd /
    $as_postgres "$(postgres_bin)/pg_basebackup" -D "$1" -d "host=127.0.0.1 port=$2 user=arena sslmode=require" -R -X stream -c fast --no-sync
    cat "$1.conf" >> "$1/postgresql.conf"
    ;;
postgres)
    own "$1"
    cd /
    exec $as_postgres "$(postgres_bin)/postgres" -D "$1"
    ;;
stop)
    # The fast way of PostgreSQL, and Ctrl-C for NATS.
    kill -INT "$1"
    ;;
esac
