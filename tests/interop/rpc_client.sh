#!/bin/sh
# A call from a shell, with the programs of Debian's amqp-tools: rpc_client.sh [BODY [CONTENT-TYPE]]
# They can't set the AMQP property "type", so it reaches the service's default function.
set -eu
body=${1:-30}
content_type=${2:-}
url=${AMQP_URL:-amqp://localhost}
url=${url%/} # behind a last slash these programs read an empty virtual host, which is not "/"

answers=$(amqp-declare-queue --url="$url" --queue= --durable)
trap 'amqp-delete-queue --url="$url" --queue="$answers" >/dev/null' EXIT
amqp-publish --url="$url" --routing-key=rpc_queue --reply-to="$answers" \
    ${content_type:+"--content-type=$content_type"} --body="$body"
timeout 10 amqp-consume --url="$url" --queue="$answers" --count=1 cat
echo
