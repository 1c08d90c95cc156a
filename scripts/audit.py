"""Known vulnerabilities in what the package needs, by pip-audit: ``python -m scripts.audit``.

pip-audit asks a database on the network. Where that does not answer, or knows none of the packages, as a mirror may
not, one line says so, and nothing has failed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

#: Seconds for one answer of the database, and for all of them.
ONE_ANSWER, ALL = 3, 15
_PIP_AUDIT = [sys.executable, "-m", "pip_audit"]
#: The extra whose packages are used where the package runs; those of the others are tools.
_EXTRA = "redis"


def needed(package: str = "amqp-rpc", extra: str = _EXTRA) -> dict[str, str]:
    """Return the names and the versions of the installed packages that a package needs, and those that they need."""
    found: dict[str, str] = {}
    waiting = [*_requirements(package, extra)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            try:
                found[name] = metadata.version(name)
            # Another system's, or another Python's.
            except metadata.PackageNotFoundError:
                continue
            waiting += _requirements(name, "")
    return found


def _requirements(package: str, extra: str) -> Iterator[str]:
    for line in metadata.requires(package) or []:
        requirement, _, marker = line.partition(";")
        if "extra" not in marker or re.search(rf"extra == .{extra or 'none'}\W", marker):
            yield re.split(r"[^\w.-]", requirement)[0].lower()


def audit(packages: dict[str, str], command: Sequence[str] = _PIP_AUDIT, seconds: float = ALL) -> tuple[bool, str]:
    """Ask for the vulnerabilities of packages; return True if none is known, and a text for people."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in sorted(packages.items()))
        file.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", f"--timeout={ONE_ANSWER}"]
        try:
            done = subprocess.run(
                [*command, *options, "--requirement", file.name],
                capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
            answered: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except subprocess.TimeoutExpired:
            return True, f"audit: skipped, the database of vulnerabilities did not answer within {seconds:g} s"
        except (ValueError, KeyError, TypeError):
            return True, "audit: skipped, the database of vulnerabilities can't be reached from here"
    known = [each for each in answered if "vulns" in each]
    unknown = len(answered) - len(known)
    if not known:
        return True, f"audit: skipped, the database of vulnerabilities knows none of {unknown} packages"
    found = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version'}"
        for each in known
        for vulnerability in each["vulns"]
    ]
    if found:
        return False, "\n".join(f"audit: {line}" for line in found)
    skipped = f"; {unknown} others are not known there" if unknown else ""
    return True, f"audit: no known vulnerability in {len(known)} packages{skipped}"


def main() -> int:
    """Print what is known; return 1 if there is a vulnerability."""
    if importlib.util.find_spec("pip_audit") is None:
        print("audit: skipped, pip-audit is not installed")
        return 0
    good, text = audit(needed())
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
