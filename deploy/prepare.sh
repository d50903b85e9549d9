#!/bin/sh
# Makes what docker-compose.yml needs and the repository must not hold: .env and deploy/secrets/.
# Run it again at any time: what is there is kept, what is missing is made. It prints no secret.
set -eu
cd "$(dirname "$0")/.."
umask 077

secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
sha256() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
# keep NAME MODE VALUE: a file of its own, whole or not at all.
keep() {
  if [ -e "$secrets/$1" ]; then return; fi
  printf '%s' "$3" >"$secrets/$1.new"
  chmod "$2" "$secrets/$1.new"
  mv "$secrets/$1.new" "$secrets/$1"
  echo "made deploy/secrets/$1"
}

if [ "$(id -u)" = 0 ] && [ -z "${AUDIT_UID:-}" ]; then
  echo "prepare.sh: run it as the user whom the trail belongs to; as root name one: AUDIT_UID=1000 AUDIT_GID=1000" >&2
  exit 2
fi
uid=${AUDIT_UID:-$(id -u)}
gid=${AUDIT_GID:-$(id -g)}

# The folder keeps others on this machine out. In it, what our workers read is theirs alone (0600: they refuse anything
# else); what images with users of their own read is 0444, since a secret is mounted into a container as it lies here.
secrets=deploy/secrets
mkdir -p "$secrets"
keep s3_access_key 0600 "audit-$(secret | cut -c1-12)"
keep s3_secret_key 0600 "$(secret)"
keep clickhouse_sink_password 0600 "$(secret)"
keep clickhouse_grafana_password 0444 "$(secret)"
keep grafana_admin_password 0444 "$(secret)"
keep clickhouse_users.xml 0444 "$(sed \
  -e "s/@SINK@/$(sha256 "$(cat $secrets/clickhouse_sink_password)")/" \
  -e "s/@GRAFANA@/$(sha256 "$(cat $secrets/clickhouse_grafana_password)")/" deploy/clickhouse/users.xml.in)"

if [ ! -e .env ]; then
  cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
  trail=${AUDIT_TRAIL:-./rlhf-audit}
  node=${AUDIT_NODE:-./rlhf-audit-node}
  sed -e "s|^AUDIT_UID=.*|AUDIT_UID=$uid|" -e "s|^AUDIT_GID=.*|AUDIT_GID=$gid|" \
    -e "s|^AUDIT_TRAIL=.*|AUDIT_TRAIL=$trail|" -e "s|^AUDIT_NODE=.*|AUDIT_NODE=$node|" \
    -e "s|^AUDIT_CLUSTER_ID=.*|AUDIT_CLUSTER_ID=$cluster|" \
    .env.example >.env.new
  mv .env.new .env
  mkdir -p "$trail" "$node"
  echo "made .env; the trail lies in $trail, trainings record into $node"
fi
if [ "$(id -u)" = 0 ]; then
  # shellcheck disable=SC1091
  . ./.env
  chown -R "$AUDIT_UID:$AUDIT_GID" "$secrets" "$AUDIT_TRAIL" "$AUDIT_NODE"
fi
echo "ready: docker compose up --detach --build"
