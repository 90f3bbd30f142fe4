#!/bin/sh
# MLflow's database on a cluster's head: `mlflow`, of the user who runs this, in the PostgreSQL that
# Debian or Ubuntu has installed. It is reached through a unix socket, and PostgreSQL asks the kernel
# who is there (peer authentication, Debian's default): no password exists. Does nothing when done.
set -eu
cd / # the user postgres may not enter this one's home
reachable() { psql -X -q -h /var/run/postgresql -d mlflow -c 'SELECT 1' > /dev/null 2>&1; }
as_postgres() { sudo -n -u postgres "$@"; }
ask() { as_postgres psql -X -A -t -c "$1"; }
settled() { # starting takes a moment
  for _ in $(seq 50); do pg_isready -q -h /var/run/postgresql && return; sleep 0.2; done
  echo "PostgreSQL does not answer: see pg_lsclusters and /var/log/postgresql" >&2
  exit 1
}

reachable && exit
sudo -n service postgresql start > /dev/null
settled
me=$(id -un)
owner=$(ask "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mlflow'")
if [ "${owner:-$me}" != "$me" ]; then
  echo "PostgreSQL has a database mlflow already, and it is ${owner}'s: see MLflow in docs/cluster.md" >&2
  exit 1
fi
known="'postgres', 'template0', 'template1', 'mlflow'"
if [ "$(ask "SELECT count(*) FROM pg_database WHERE datname NOT IN ($known)")" = 0 ]; then
  # Nobody else's data: no port at all. A PostgreSQL that serves others keeps its own settings.
  as_postgres psql -X -q -c "ALTER SYSTEM SET listen_addresses = ''"
  sudo -n service postgresql restart > /dev/null
  settled
fi
ask "SELECT rolname FROM pg_roles" | grep -qxF "$me" || as_postgres createuser "$me"
# UTF-8 whatever the machine's language: installed under LANG=C, the default is no encoding at all.
[ -n "$owner" ] ||
  as_postgres createdb --owner="$me" --template=template0 --encoding=UTF8 --locale=C mlflow
as_postgres psql -X -q -c "REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC"
reachable || { echo "the database mlflow does not let $me in: see /var/log/postgresql" >&2; exit 1; }
