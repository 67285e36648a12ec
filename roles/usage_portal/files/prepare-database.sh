# Makes the database's files, whole or not at all, and sets the password of this start: that of the Secret.
set -eu
password="$(cat /etc/database/password)"
data="$PGDATA"
if [ -d "$data" ]; then
  version="$(cat "$data/PG_VERSION")"
  wanted="$(postgres --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')"
  if [ "$version" != "$wanted" ]; then
    echo "the data in $data are of PostgreSQL $version and this is PostgreSQL $wanted: dump and restore them" >&2
    exit 1
  fi
else
  rm -rf "$data.new"
  initdb --pgdata="$data.new" --username=postgres --auth=peer --auth-host=scram-sha-256 --data-checksums \
    --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C
  echo 'local all all trust' > "$data.new/pg_hba.conf"
  echo 'host usage_portal portal all scram-sha-256' >> "$data.new/pg_hba.conf"
  printf '%s\n' 'CREATE ROLE portal LOGIN' 'CREATE DATABASE usage_portal OWNER portal' \
    | postgres --single -c exit_on_error=true -D "$data.new" postgres > /dev/null
  sync
  mv "$data.new" "$data"
fi
printf "ALTER ROLE portal PASSWORD '%s'\n" "$password" | postgres --single -c exit_on_error=true -D "$data" postgres > /dev/null
