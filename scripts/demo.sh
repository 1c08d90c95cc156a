#!/usr/bin/env bash
# The shortest way to see it work: a broker, a server, a call. It stops what it started, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
server=
own_broker=

stop_all() {
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
    if [ -n "$own_broker" ]; then
        own_broker=
        "$bin/amqp-rpc" broker stop
    fi
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A broker: the one that AMQP_URL names, or one of our own. What else listens on the default port may be somebody's,
# whose clients would call this server.
if [ -n "${AMQP_URL:-}" ]; then
    echo "using the broker that AMQP_URL names" >&2
else
    "$bin/amqp-rpc" broker status >/dev/null 2>&1 || own_broker=yes
    started=$("$bin/amqp-rpc" broker start --install)
    export AMQP_URL="${started%%$'\n'*}"
fi

echo "serving services.fib, and calling fib(30) …" >&2
"$bin/amqp-rpc" serve services.fib &
server=$!
result=$("$bin/amqp-rpc" call fib 30 --wait-for-server)

stop_all
echo "fib(30) = $result"
