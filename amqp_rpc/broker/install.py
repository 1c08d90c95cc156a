"""How RabbitMQ gets onto a machine: with apt-get, where there is one. It never starts anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from amqp_rpc.broker.errors import InstallFailed, NotAvailable
from amqp_rpc.broker.programs import ADVICE
from amqp_rpc.broker.progress import Say, say_to_stderr

PACKAGE = "rabbitmq-server"

#: Debian asks this file before it starts a service of a package; 101 means "no".
#: https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# written by amqp-rpc while it installs rabbitmq-server; safe to remove\nexit 101\n"

APT_LISTS = Path("/var/lib/apt/lists")
APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def install(*, say: Say = say_to_stderr, timeout: float = 900.0) -> None:
    """Install the ``rabbitmq-server`` package of this machine's Debian or Ubuntu.

    The package's own service is neither started nor enabled, so no broker of the system's comes up beside yours.

    Args:
        say: takes the lines that tell what it does.
        timeout: seconds for each run of apt-get.

    Raises:
        NotAvailable: there is no apt-get, or no right to run it.
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
            _apt(root, ["update", "-qq"], timeout=timeout)  # lists that are there may be too old to fetch by
            _apt(root, command, timeout=timeout)
    _disable_service(root)


def _root_prefix() -> list[str]:
    """The words that make a command run as root: none for root, else sudo, which must not ask for a password."""
    if shutil.which("apt-get") is None:
        raise NotAvailable(f"--install needs apt-get (Debian, Ubuntu), which is not here; {ADVICE}")
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        raise NotAvailable(f"--install needs root or sudo; ask for `apt-get install {PACKAGE}`, or {ADVICE}")
    # A person at a terminal can type the password; a script cannot, and must not hang.
    return [sudo] if sys.stdin.isatty() else [sudo, "-n"]


def _has_lists() -> bool:
    """Whether apt knows any package: a container image comes without lists."""
    return any(APT_LISTS.glob("*_Packages*")) if APT_LISTS.is_dir() else False


def _apt(root: Sequence[str], arguments: Sequence[str], *, timeout: float) -> None:
    # The environment is given in words, since sudo passes none on. Dpkg may be busy (unattended upgrades): wait for it.
    words = [*root, "env", *(f"{name}={value}" for name, value in APT_ENVIRONMENT.items())]
    words += ["apt-get", "-o", "DPkg::Lock::Timeout=120", *arguments]
    try:
        done = subprocess.run(
            words,
            stdin=None if root else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallFailed(f"apt-get {arguments[0]} did not end in {timeout:.0f} s") from error
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.startswith(("E:", "sudo:"))]
        reason = reasons[0] if reasons else f"exit code {done.returncode}"
        raise InstallFailed(f"apt-get {arguments[0]} failed: {reason}")


@contextlib.contextmanager
def _services_stay_off(root: Sequence[str], policy: Path = POLICY) -> Iterator[None]:
    """Keep packages from starting services meanwhile; leaves a policy alone that is there already."""
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
    """Keep the package's service from coming up at the next boot, too."""
    for words in (["systemctl", "disable", "--quiet", PACKAGE], ["update-rc.d", PACKAGE, "disable"]):
        if shutil.which(words[0], path=path.get("PATH")) is not None:
            subprocess.run([*root, *words], check=False, capture_output=True)
