"""The folder of a node: what is made in it, and how it is removed again. It removes only what it made.

Something may have been mounted inside meanwhile (a program that the node was started through may bind /tmp or /dev
there), and removing a tree goes through mounts: so nothing is removed below which anything is mounted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from amqp_rpc.broker.errors import CleanupRefused, StartFailed

#: Every folder that is made in a node's folder.
PARTS = ("data", "home", "log", "no-plugins", "schema")
#: Every file.
FILES = ("pid", "plugins", "rabbitmq.conf")
#: Says that a folder is a node's: nothing is removed from a folder that lacks it.
MARK = "a-node-of-amqp-rpc"

MOUNTS = Path("/proc/self/mountinfo")


def create(*, shared: bool) -> Path:
    """Make a new temporary folder for a node.

    Args:
        shared: another user's programs run in it, and the folder is known to them as one below /tmp.
    """
    return Path(tempfile.mkdtemp(prefix="amqp-rpc-node-", dir="/tmp" if shared else None))  # noqa: S108


def lay_out(folder: Path, *, shared: bool) -> None:
    """Make the parts that are not there yet; keeps the data of an earlier start.

    Raises:
        StartFailed: the folder has other things in it, which would be mixed up with the node's.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise StartFailed(f"{folder} has files in it that are not a node's; give an empty folder, or none")
    for made in (folder, *(folder / part for part in PARTS)):
        made.mkdir(parents=True, exist_ok=True)
        if shared:
            made.chmod(0o777)
    (folder / MARK).touch()


def remove(folder: Path) -> None:
    """Remove what `lay_out` and the node made, then the folder, if nothing else is in it.

    Raises:
        CleanupRefused: something is mounted below it; nothing was removed.
    """
    mounted = mounted_below(folder)
    if mounted:
        raise CleanupRefused(f"{folder} was left as it is: {mounted[0]} is mounted in it; unmount it, then remove it")
    marked = (folder / MARK).exists()
    for part in PARTS if marked else ():
        path = folder / part
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    for name in (*FILES, MARK) if marked else ():
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def mounted_below(folder: Path, mounts: Path = MOUNTS) -> list[Path]:
    """Return the mount points at or below a folder; bind mounts too, which only this list tells."""
    real = Path(os.path.realpath(folder))
    points = (Path(_unescape(line.split()[4])) for line in mounts.read_text().splitlines())
    return sorted(point for point in points if point.is_relative_to(real))


def _unescape(text: str) -> str:
    r"""Undo the kernel's ``\040`` for a space, and its like."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text
