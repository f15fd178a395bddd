#!/bin/sh
# Fills Vault for docker/compose.yaml. Runs in Vault's own image.
set -eu

cat >/tmp/syncline.hcl <<'POLICY'
path "secret/data/shop/*" { capabilities = ["read"] }
POLICY
vault policy write syncline /tmp/syncline.hcl

vault kv put -mount=secret shop/source dsn="postgres://shop:$DATABASE_PASSWORD@source:5432/shop?sslmode=disable"
vault kv put -mount=secret shop/warehouse dsn="postgres://shop:$DATABASE_PASSWORD@sink:5432/warehouse?sslmode=disable"
vault kv put -mount=secret shop/analytics dsn="http://shop:$DATABASE_PASSWORD@clickhouse:8123/default"
# Where the workers record what they do; here the same ClickHouse.
vault kv put -mount=secret shop/recorder dsn="http://shop:$DATABASE_PASSWORD@clickhouse:8123/default"

# Periodic: the workers renew it for as long as they run. Written beside its
# place and moved, so that a worker never reads half a token.
umask 022
vault token create -policy=syncline -period=24h -orphan -field=token >/run/vault/token.new
mv /run/vault/token.new /run/vault/token
