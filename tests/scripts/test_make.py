"""The targets of the Makefile on a machine that lacks something: one line each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@pytest.mark.parametrize("target", ["test", "bench"])
def test_a_machine_that_can_have_no_rabbitmq_says_so_in_one_line(tmp_path: Path, target: str) -> None:
    ready, path = tmp_path / "bin", tmp_path / "path"
    ready.mkdir()
    path.mkdir()
    # It finds no program of RabbitMQ's, no Docker and no apt-get.
    hidden = "import amqp_rpc.broker as b; b.find_program = lambda _: None; b.docker.engine_answers = lambda: False; "
    python = ready / "python"
    python.write_text(f"#!/bin/sh\nPATH={path} exec {sys.executable} -c '{hidden}'\"$2\"\n")
    python.chmod(0o755)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("AMQP_RPC_TEST_URL", "AMQP_RPC_TEST_RABBITMQ"):
        variables.pop(name, None)
    done = subprocess.run(
        ["make", "--silent", target, f"BIN={ready}", f"READY={tmp_path}"],
        cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("error: --install needs apt-get")


#: In the place of `amqp-rpc`: it says what it is asked, and which broker it would use.
STUB = """#!/bin/sh
echo "$* at ${AMQP_URL:-the default}" >> "$SAID"
case "$*" in
    "broker status") exit 1 ;;
    "broker start --install") echo amqp://own ;;
    call*) until grep -q ^serve "$SAID"; do sleep 0.02; done; echo 832040 ;;
esac
"""


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("amqp://named", ["serve services.fib at amqp://named", "call fib 30 --wait-for-server at amqp://named"]),
        (
            "",
            [
                "broker status at the default",
                "broker start --install at the default",
                "serve services.fib at amqp://own",
                "call fib 30 --wait-for-server at amqp://own",
                "broker stop at amqp://own",
            ],
        ),
    ],
    ids=["named", "its own"],
)
def test_the_demo_serves_no_broker_that_just_happens_to_be_there(tmp_path: Path, named: str, said: list[str]) -> None:
    stub = tmp_path / "amqp-rpc"
    stub.write_text(STUB)
    stub.chmod(0o755)
    lines = tmp_path / "said"
    done = subprocess.run(
        ["make", "--silent", "demo", f"BIN={tmp_path}", f"READY={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "AMQP_URL": named, "SAID": str(lines)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "fib(30) = 832040"), done.stderr
    # The server runs beside the call.
    assert sorted(lines.read_text().splitlines()) == sorted(said)
