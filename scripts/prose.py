"""Find the lines of prose that are likely to read oddly: ``python -m scripts.prose [FILES OR FOLDERS]``.

Prose is what people read: Markdown outside of code, docstrings, comments, and the texts of log lines.
It is a reader's aid: a line that it finds wants another look, and a line that it passes may still be bad English.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: The places that are read unless others are given.
PLACES = ("amqp_rpc", "README.md", "docs")

#: Turns of phrase that a native speaker would not use, and what each is a sign of.
ODD = {
    "a free relative as the subject": r"^(what|which|who|whoever|whether|where)\b(?!.*\?)",
    "a free relative as the object": r"\breturn what\b|\bwhat (becomes|became) of\b|\bwhat it comes to\b",
    "an impersonal passive": r"\b(is|are|was|were) (told|said|made anew|looked at|waited for)\b",
    "a word of this project's own": r"\b(in hand|under way|made anew|by chance|goes back|given back|comes ahead)\b",
    "a person without a role": r"\b(nobody|somebody|whoever)\b",
    "a phrase out of place": r"\btake note\b|\bof chance\b|\bas it comes\b|\bis none\b|\bhear(s|d)? of\b",
    "a word that trails": r"\bperhaps\.?$|\bthe other way\b$",
}
_ODD = {reason: re.compile(pattern, re.IGNORECASE) for reason, pattern in ODD.items()}
_LOGGED = {"debug", "info", "warning", "error", "exception"}


@dataclass(frozen=True, order=True)
class OddLine:
    """A line that wants another look."""

    path: Path
    number: int
    text: str
    reason: str


@dataclass(frozen=True)
class Prose:
    """The prose of some files: how many lines, and the odd ones."""

    lines: int
    odd: list[OddLine]

    @property
    def per_100(self) -> float:
        """How many of 100 lines are odd."""
        return 100 * len(self.odd) / max(1, self.lines)


def read(*places: Path) -> Prose:
    """Read the prose of files, and of all Python and Markdown files below folders."""
    lines = 0
    odd: list[OddLine] = []
    for place in places:
        files = sorted([*place.rglob("*.py"), *place.rglob("*.md")]) if place.is_dir() else [place]
        for path in files:
            for number, text in sorted(set(_prose(path))):
                lines += 1
                reason = next((reason for reason, pattern in _ODD.items() if pattern.search(text)), None)
                if reason is not None:
                    odd.append(OddLine(path, number, text, reason))
    return Prose(lines, odd)


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text()
    return _of_python(text) if path.suffix == ".py" else _of_markdown(text)


def _of_markdown(text: str) -> Iterator[tuple[int, str]]:
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and line.strip():
            yield number, line.strip(" #*|-")


def _of_python(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        yield from _docstring(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOGGED:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.lineno, argument.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#: ").strip()


def _docstring(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        for number, line in enumerate(
            (ast.get_docstring(node) or "").splitlines(), node.body[0].lineno if node.body else 1
        ):
            if line.strip():
                yield number, line.strip()


def main() -> None:
    """Print the odd lines."""
    found = read(*map(Path, sys.argv[1:] or PLACES))
    for line in found.odd:
        print(f"{line.path}:{line.number}: {line.reason}: {line.text}")
    print(f"{len(found.odd)} of {found.lines} lines of prose: {found.per_100:.1f} per 100")


if __name__ == "__main__":
    main()
