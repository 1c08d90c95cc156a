#!/usr/bin/env bash
# Installs the programs of other languages that the tests talk to, where they are missing and apt-get can be used:
# scripts/test-tools.sh amqp-publish=amqp-tools node=nodejs npm=npm     (program=package)
# Without them their tests are skipped, so it is no failure when it can't.
set -uo pipefail
missing=()
for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, so their tests are skipped: ${missing[*]}" >&2
    exit 0
fi
echo "installing ${missing[*]} (apt-get) …" >&2
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
    echo "apt-get could not install ${missing[*]}; their tests are skipped" >&2
