"""Print the package as a reader meets it, in figures: ``python -m scripts.shape``, or ``make shape``.

``tests/project/test_shape.py`` holds the same figures to their bounds.
"""

from __future__ import annotations

import ast
import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scripts import prose

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "amqp_rpc"

#: Words on -ing that are nouns, or the Python library's.
NOUNS = {"String", "Setting", "Ring", "Binding", "Heading", "Warning"}
#: Their classes are in a tree by design, and are no mixins.
TREES = {"errors"}


class Shape:
    """The modules of the package, parsed, and what can be counted about them.

    Attributes:
        sources: The text of each module, by its name without the package's.
        trees: The same, parsed.
    """

    def __init__(self, package: Path = PACKAGE) -> None:
        self.package = package
        files = {self._name(path): path for path in sorted(package.rglob("*.py"))}
        self.sources = {module: path.read_text() for module, path in files.items()}
        self.trees = {module: ast.parse(text) for module, text in self.sources.items()}
        self._packages = {module for module, path in files.items() if path.name == "__init__.py"}
        self.imports = {module: set(self._imported(module)) - {module} for module in files}

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.package).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)

    def _imported(self, module: str) -> Iterator[str]:
        """The package's own modules that a module imports, also inside functions and for type checkers."""
        name = self.package.name
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [each if each.removeprefix(f"{name}.") in self.sources else node.module for each in modules]
            else:
                continue
            for each in found:
                own = "__init__" if each == name else each.removeprefix(f"{name}.")
                if own in self.sources:
                    yield own

    @property
    def entries(self) -> list[str]:
        """The names that a reader sees in the package's folder."""
        hidden = {"__pycache__", "py.typed"}
        return sorted(
            each.name for each in self.package.iterdir() if each.name not in hidden and not each.name.startswith(".")
        )

    @property
    def modules_of(self) -> dict[str, int]:
        """How many modules each package has beside its ``__init__``."""
        return dict(Counter(module.rpartition(".")[0] for module in self.sources if "." in module))

    @property
    def lines(self) -> dict[str, int]:
        """How many lines each module has."""
        return {module: len(text.splitlines()) for module, text in self.sources.items()}

    @property
    def callables(self) -> list[str]:
        """The parameters whose annotation has the word Callable, with their functions."""
        return [
            f"{module}.{function.name}({argument.arg})"
            for module, function in self._functions()
            for argument in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            if argument.annotation is not None and "Callable" in ast.unparse(argument.annotation)
        ]

    @property
    def one_importer(self) -> list[str]:
        """The modules that one other module imports, and that don't say that they are a seam."""
        importers = Counter(other for others in self.imports.values() for other in others)
        return sorted(
            module
            for module in self.sources
            if importers[module] == 1
            and module not in self._packages
            and "seam" not in (ast.get_docstring(self.trees[module]) or "")
        )

    @property
    def gerunds(self) -> list[str]:
        """The classes that are named for a doing."""
        return sorted(
            f"{module}.{node.name}"
            for module, node in self._classes()
            if node.name.rstrip("_").endswith("ing") and node.name not in NOUNS
        )

    @property
    def mixins(self) -> list[str]:
        """The classes that exactly one other extends, beside another class of the package."""
        bases = [
            [base.id for base in node.bases if isinstance(base, ast.Name)]
            for module, node in self._classes()
            if module not in TREES
        ]
        own = {node.name for module, node in self._classes() if module not in TREES}
        users = Counter(base for each in bases for base in each)
        several = {base for each in bases if len(set(each) & own) > 1 for base in each}
        return sorted(base for base in several & own if users[base] == 1)

    @property
    def lone_protocols(self) -> list[str]:
        """The protocols that exactly one class of the package fulfils, by the names of its methods and attributes."""
        classes = [(node.name, _bases(node), _members(node)) for _, node in self._classes()]
        return sorted(
            f"{name} ({found[0]})"
            for name, bases, members in classes
            if "Protocol" in bases
            and len(found := [other for other, of, has in classes if "Protocol" not in of and members <= has]) == 1
        )

    @property
    def overloads(self) -> dict[str, int]:
        """How many overloads each method has that has any."""
        return dict(
            Counter(
                f"{module}.{node.name}.{each.name}"
                for module, node in self._classes()
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                and any("overload" in ast.unparse(decorator) for decorator in each.decorator_list)
            )
        )

    @property
    def cycle(self) -> list[str]:
        """Modules that import each other in a circle; empty if there are none.

        A package's own ``__init__`` is imported with each of its modules, and may name them.
        """
        graph = {
            module: {other for other in others if not module.startswith(f"{other}.") and other != "__init__"}
            for module, others in self.imports.items()
        }
        try:
            list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError as error:
            return list(error.args[1])
        return []

    def named(self, name: str) -> list[str]:
        """Return the modules that define a function of that name."""
        return sorted({module for module, function in self._functions() if function.name == name})

    def _functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield module, node

    def _classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    yield module, node


def _bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).partition("[")[0] for base in node.bases}


def _members(node: ast.ClassDef) -> set[str]:
    """The names of a class's methods and attributes, also of those that its methods set."""
    found = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    for each in ast.walk(node):
        targets = (
            each.targets if isinstance(each, ast.Assign) else [each.target] if isinstance(each, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name):
                found.add(target.id)
            elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                found.add(target.attr)
    return {name for name in found if not name.startswith("__")}


def figures(shape: Shape, text: prose.Prose) -> list[tuple[str, str, str]]:
    """Return each figure: what it counts, its value, and where to look."""
    fullest, modules = max(shape.modules_of.items(), key=lambda item: item[1])
    longest, lines = max(shape.lines.items(), key=lambda item: item[1])
    overloads = max(shape.overloads.items(), key=lambda item: item[1], default=("", 0))
    return [
        (f"entries in {shape.package.name}/", f"{len(shape.entries)}", " ".join(shape.entries)),
        ("modules in the fullest package", f"{modules}", fullest),
        ("lines", f"{sum(shape.lines.values())}", f"in {len(shape.lines)} files"),
        ("lines of the longest file", f"{lines}", longest),
        ("Callable parameters", f"{len(shape.callables)}", _most(shape.callables)),
        ("one-importer modules, no seam", f"{len(shape.one_importer)}", " ".join(shape.one_importer)),
        ("classes named by a gerund", f"{len(shape.gerunds)}", " ".join(shape.gerunds)),
        ("mixins", f"{len(shape.mixins)}", " ".join(shape.mixins)),
        ("protocols with one implementer", f"{len(shape.lone_protocols)}", ", ".join(shape.lone_protocols)),
        ("most overloads of a method", f"{overloads[1]}", overloads[0]),
        ("import cycles", f"{int(bool(shape.cycle))}", " -> ".join(shape.cycle)),
        ("modules with a function take", f"{len(shape.named('take'))}", " ".join(shape.named("take"))),
        ("odd lines of prose per 100", f"{text.per_100:.1f}", f"{len(text.odd)} of {text.lines}"),
    ]


def _most(callables: list[str]) -> str:
    counts = Counter(each.partition("(")[0].rpartition(".")[0] for each in callables)
    return ", ".join(f"{module} {count}" for module, count in counts.most_common(8))


def main() -> None:
    """Print the figures."""
    for name, value, where in figures(Shape(), prose.read(*(ROOT / place for place in prose.PLACES))):
        print(f"{name:32} {value:>6}  {where}".rstrip())


if __name__ == "__main__":
    main()
