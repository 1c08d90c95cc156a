"""Print the tests that the table of threats in docs/security.md names: ``pytest $(python -m scripts.threats)``."""

from __future__ import annotations

import re

from scripts.shape import ROOT

PAGE = ROOT / "docs" / "security.md"


def rows(text: str) -> list[list[str]]:
    """Return the tests of each row of the table: node ids, as pytest takes them."""
    section = text.partition("\n## Threats\n")[2].partition("\n## ")[0]
    heads = ("| Threat ", "| --- ")
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith(heads)]
    return [re.findall(r"`(tests/[\w/]+\.py(?:::\w+)+)`", line) for line in lines]


def main() -> None:
    """Print each once."""
    print("\n".join(dict.fromkeys(test for row in rows(PAGE.read_text()) for test in row)))


if __name__ == "__main__":
    main()
