#!/usr/bin/env bash
# Installs the programs that the tests talk to, other languages' and Redis, where they are missing and apt-get can be used:
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
# RUNLEVEL=1: a server that is installed is not started (invoke-rc.d); the tests start one of their own.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
    echo "apt-get could not install ${missing[*]}; their tests are skipped" >&2
