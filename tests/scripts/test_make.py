"""The targets of the Makefile on a machine that lacks something: one line each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
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
