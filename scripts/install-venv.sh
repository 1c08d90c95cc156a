#!/usr/bin/env bash
# Debian keeps the part of Python that makes virtual environments in a package of its own.
set -euo pipefail
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: this Python can't make virtual environments; on Debian: sudo apt-get install python3-venv" >&2
    exit 1
fi
echo "installing python3-venv (apt-get) …" >&2
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null
