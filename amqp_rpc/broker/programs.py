"""RabbitMQ's programs on this machine, and their installation with apt-get. It never starts them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from amqp_rpc.broker.errors import InstallFailed, NotAvailable

#: The advice at the end of every message that RabbitMQ is missing.
ADVICE = (
    "start a Docker engine, or install RabbitMQ: `apt-get install rabbitmq-server` "
    "(`amqp-rpc broker start --install` does it for you), or see https://www.rabbitmq.com/docs/download"
)

#: Folders of the programs besides the PATH, which often lacks ``sbin`` for ordinary users.
FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")

#: Packages put wrappers on the PATH that change to the user ``rabbitmq`` and log to /var/log; the programs are here.
PACKAGED = Path("/usr/lib/rabbitmq/bin")
WRAPPERS = (Path("/usr/sbin"), Path("/usr/bin"))

PACKAGE = "rabbitmq-server"

#: Debian asks this file before it starts a service of a package; 101 means "no".
#: https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# written by amqp-rpc while it installs rabbitmq-server; safe to remove\nexit 101\n"

APT_LISTS = Path("/var/lib/apt/lists")
APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def find_program(name: str) -> str | None:
    """Return the path of one of RabbitMQ's programs, on the PATH or where packages put it; None if it is missing."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(FOLDERS))
    packaged = PACKAGED / name
    return str(packaged) if found is not None and Path(found).parent in WRAPPERS and packaged.exists() else found


def packaged_version() -> str:
    """Return the version in the path of the program, as packages have it, or ""; asking RabbitMQ takes seconds."""
    program = find_program("rabbitmq-server")
    for part in Path(os.path.realpath(program)).parts if program else ():
        if part.startswith("rabbitmq_server-"):
            return part.removeprefix("rabbitmq_server-")
    return ""


def say_to_stderr(line: str) -> None:
    """Print a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def install(*, say: Callable[[str], object] = say_to_stderr, timeout: float = 900.0) -> None:
    """Install the ``rabbitmq-server`` package of Debian or Ubuntu.

    The package's own service is neither started nor enabled, so that no system broker runs beside yours.

    Args:
        say: Called with each line of progress.
        timeout: Seconds for each run of apt-get.

    Raises:
        NotAvailable: There is no apt-get, or no permission to run it.
        InstallFailed: apt-get failed.
    """
    root = _root_prefix()
    with _services_stay_off(root):
        if not _has_lists():
            say("installing RabbitMQ: apt-get update")
            _apt(root, ["update", "-qq"], timeout=timeout)
        say(f"installing RabbitMQ: apt-get install {PACKAGE} (about 100 MB with Erlang; its own service stays off)")
        command = ["install", "-y", "-qq", "--no-install-recommends", PACKAGE]
        try:
            _apt(root, command, timeout=timeout)
        except InstallFailed:
            _apt(root, ["update", "-qq"], timeout=timeout)  # the lists may be too old
            _apt(root, command, timeout=timeout)
    _disable_service(root)


def _root_prefix() -> list[str]:
    """Return the words that make a command run as root: none for root, else sudo, which must not ask for a password."""
    if shutil.which("apt-get") is None:
        raise NotAvailable(f"--install needs apt-get (Debian, Ubuntu), which is missing here; {ADVICE}")
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        raise NotAvailable(f"--install needs root or sudo; ask for `apt-get install {PACKAGE}`, or {ADVICE}")
    # A person at a terminal can type the password; a script cannot, and must not hang.
    return [sudo] if sys.stdin.isatty() else [sudo, "-n"]


def _has_lists() -> bool:
    """Return whether apt knows any package: container images have no lists."""
    return any(APT_LISTS.glob("*_Packages*")) if APT_LISTS.is_dir() else False


def _apt(root: Sequence[str], arguments: Sequence[str], *, timeout: float) -> None:
    # sudo passes no environment on, so it is part of the command. dpkg may be busy (unattended upgrades): wait for it.
    words = [*root, "env", *(f"{name}={value}" for name, value in APT_ENVIRONMENT.items())]
    words += ["apt-get", "-o", "DPkg::Lock::Timeout=120", *arguments]
    try:
        done = subprocess.run(words, stdin=None if root else subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=timeout, check=False)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InstallFailed(f"apt-get {arguments[0]} did not end in {timeout:.0f} s") from error
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.startswith(("E:", "sudo:"))]
        reason = reasons[0] if reasons else f"exit code {done.returncode}"
        raise InstallFailed(f"apt-get {arguments[0]} failed: {reason}")


@contextlib.contextmanager
def _services_stay_off(root: Sequence[str], policy: Path = POLICY) -> Iterator[None]:
    """Keep packages from starting services meanwhile; an existing policy is not touched."""
    if policy.exists() or policy.is_symlink():
        yield
        return
    script = f"printf '%s' \"$1\" >{policy} && chmod 755 {policy}"
    try:
        subprocess.run([*root, "sh", "-c", script, "sh", POLICY_TEXT], check=True, capture_output=True)
        yield
    except subprocess.CalledProcessError as error:
        raise InstallFailed(f"could not write {policy}: {error.stderr.decode(errors='replace').strip()}") from error
    finally:
        subprocess.run([*root, "rm", "-f", str(policy)], check=False, capture_output=True)


def _disable_service(root: Sequence[str], path: Mapping[str, str] = os.environ) -> None:
    """Keep the package's service from starting at the next boot."""
    for words in (["systemctl", "disable", "--quiet", PACKAGE], ["update-rc.d", PACKAGE, "disable"]):
        if shutil.which(words[0], path=path.get("PATH")) is not None:
            subprocess.run([*root, *words], check=False, capture_output=True)
