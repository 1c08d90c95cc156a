"""The environments of contenders: a virtual environment for each, made once, or two programs in C.

They are kept in ``$XDG_CACHE_HOME/amqp_rpc-bench``, under a name that changes with what is in them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CONTENDERS = HERE / "contenders"

_C_ADVICE = "the C floor needs a C compiler and librabbitmq: apt-get install gcc libc6-dev librabbitmq-dev"
_TIMEOUT = 900


class UnavailableError(Exception):
    """A contender can't be had here; says why in a line."""


def interpreter(folder: str) -> str:
    """Return the Python that has what a contender needs; ours is the one that runs the bench."""
    requirements = CONTENDERS / folder / "requirements.txt"
    return sys.executable if not requirements.exists() else environment(folder, requirements)


def environment(name: str, requirements: Path) -> str:
    """Return the Python of a virtual environment with these requirements; make it if it is missing."""
    key = hashlib.sha256(f"{sys.version}\n{requirements.read_text()}".encode()).hexdigest()[:12]
    folder = _cache() / f"{name}-{key}"
    python = folder / "bin" / "python"
    installed = folder / ".installed"
    if installed.exists():
        return str(python)
    print(f"setting up {name} (pip install -r {requirements.relative_to(HERE.parent)}) …", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)  # of an installation that was broken off
    _run([sys.executable, "-m", "venv", str(folder)], f"{name}: no virtual environment could be made")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    _run(pip, f"{name}: pip could not install {requirements.relative_to(HERE.parent)}")
    installed.touch()
    return str(python)


def programs() -> Path:
    """Return the folder with the C server and the C clients, which are built if they are not there yet."""
    source = CONTENDERS / "c"
    files = sorted(source.glob("*.[ch]"))
    key = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    folder = _cache() / f"c-{key}"
    if (folder / "client").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _build(source, folder)
    except UnavailableError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        print("installing gcc and librabbitmq-dev (apt-get) for the C floor …", file=sys.stderr)
        _install()
        _build(source, folder)
    return folder


def _build(source: Path, folder: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UnavailableError(_C_ADVICE)
    # The client last: where it is, all are.
    for program in ("server", "task_client", "client"):
        words = [compiler, "-O2", "-Wall", "-o", str(folder / program), str(source / f"{program}.c")]
        _run([*words, "-lrabbitmq", "-lpthread"], _C_ADVICE)


def _install() -> None:
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    packages = ["gcc", "libc6-dev", "librabbitmq-dev"]
    _run(["apt-get", "update", "-qq"], "apt-get update failed", quiet)
    _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], _C_ADVICE, quiet)


def _run(words: list[str], failure: str, variables: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{failure} ({type(error).__name__})") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = next((line for line in said if "error" in line.lower()), said[-1] if said else "")
        raise UnavailableError(f"{failure} ({why.strip()[:200]})")


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "amqp_rpc-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
