"""The report of a run: a line about the machine, a file of JSON, and the plots."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environments import HERE, UnavailableError, environment
from benchmarks.field import say
from benchmarks.targets import Results, Target

Facts = dict[str, Any]


def headline(facts: Facts) -> str:
    """Return the facts that a reader of the tables needs."""
    left_out = "".join(f"\n{name} was left out: {why}" for name, why in facts["left out"].items())
    return (
        f"amqp_rpc {facts['amqp_rpc']} · pika {facts['pika']} · Python {facts['Python']} · "
        f"RabbitMQ {facts['RabbitMQ']} · {facts['system']}, {facts['cores']} cores, load {facts['load at the start']} "
        f"at the start and {facts['load at the end']} at the end\n"
        f"{facts['rounds']} rounds of {facts['seconds']:g} s, {facts['minutes']} minutes; medians, and medians of the "
        f"ratios of each round{left_out}\n"
    )


def save(folder: Path, results: Results, targets: Sequence[Target], facts: Facts) -> None:
    """Write the results and draw the plots; without matplotlib there are none, and a line says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()  # of a run that had other cases
    file = folder / "results.json"
    content = {
        "facts": facts,
        "entries": [entry.as_json() for entry in results.entries],
        "idle": asdict(results.idle) if results.idle else None,
        "targets": [{**asdict(target), "verdict": target.verdict} for target in targets],
    }
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    try:
        python = environment("plots", HERE / "plots-requirements.txt")
        words = [python, "-m", "benchmarks.plots", str(file)]
        subprocess.run(words, cwd=HERE.parent, check=True, capture_output=True, text=True, timeout=120)
    except (UnavailableError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines()
        say(f"no plots: {said[-1] if said else error}")
    say(f"results are in {folder.relative_to(HERE.parent)}")
