"""Draw the packages, and list them with their modules, in docs/architecture.md: ``python -m scripts.picture``.

The picture is of the imports, and the words are the docstrings' first sentences. A test compares the page with both.
"""

from __future__ import annotations

import ast
import graphlib
import re

from scripts.shape import ROOT, Shape

PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- made by: python -m scripts.picture -->"
END = "<!-- made until here -->"
#: They only name what the packages have.
FRONTS = {"__init__", "__main__"}


def package_imports(shape: Shape) -> dict[str, set[str]]:
    """Return which packages each package imports; ``errors`` counts as one."""
    imports: dict[str, set[str]] = {}
    for module, others in shape.imports.items():
        package = module.partition(".")[0]
        if package not in FRONTS:
            found = imports.setdefault(package, set())
            found |= {other.partition(".")[0] for other in others} - FRONTS - {package}
    return imports


def floors(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the packages floor by floor, those that import others above them."""
    heights: dict[str, int] = {}
    for package in graphlib.TopologicalSorter(imports).static_order():
        heights[package] = 1 + max((heights[other] for other in imports[package]), default=-1)
    return [
        sorted(package for package in heights if heights[package] == height)
        for height in range(max(heights.values()), -1, -1)
    ]


def direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports without those that another import brings anyway: the lines of the picture."""

    def below(package: str) -> set[str]:
        return imports[package].union(*map(below, imports[package]))

    return {package: others - set().union(*map(below, others)) for package, others in imports.items()}


def picture(shape: Shape) -> str:
    """Return the picture, as Mermaid reads it."""
    imports = package_imports(shape)
    lines = direct(imports)
    drawn = ["```mermaid", "graph TD"]
    for floor in floors(imports):
        drawn += [f"    {package} --> {' & '.join(sorted(lines[package]))}" for package in floor if lines[package]]
    return "\n".join([*drawn, "```"])


def listing(shape: Shape) -> str:
    """Return the packages with their modules, each with the first sentence of its docstring."""
    imports = package_imports(shape)
    parts = []
    for floor in floors(imports):
        for package in floor:
            own = [module for module in shape.sources if module.startswith(f"{package}.")]
            below = ", ".join(f"`{other}`" for other in sorted(imports[package])) or "nothing of the package"
            rows = [f"**{package}** imports {below}. {_first_sentence(shape, package)}", ""]
            if own:
                rows += ["| module | |", "| --- | --- |"]
                rows += [f"| `{module.partition('.')[2]}` | {_first_sentence(shape, module)} |" for module in own]
                rows.append("")
            parts.append("\n".join(rows))
    return "\n".join(parts).rstrip()


def _first_sentence(shape: Shape, module: str) -> str:
    """The first sentence of a module's docstring; of a paragraph without an end, all of it."""
    paragraph = " ".join((ast.get_docstring(shape.trees[module]) or "").partition("\n\n")[0].split())
    text = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]
    return text.replace("``", "`").replace("|", "\\|")


def page(text: str, shape: Shape) -> str:
    """Return the page's text with a new picture and list."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{picture(shape)}\n\n{listing(shape)}\n\n{END}{after}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(), Shape()))


if __name__ == "__main__":
    main()
