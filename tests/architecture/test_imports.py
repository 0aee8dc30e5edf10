"""Imports point down, plug-ins do not know each other, and nothing runs in circles."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import lmcraft
from lmcraft.core import find

PACKAGE = Path(lmcraft.__file__).parent
LEVELS = {
    "core": 0,
    "text": 1, "layers": 1,
    "data": 2, "models": 2,
    "adapt": 3,
    "generate": 4, "train": 4,
    "rewards": 5,
    "rl": 6,
    "stages": 7, "evals": 7, "feedback": 7,
    "export": 8, "report": 8, "recipe": 8,
    "work": 9, "inspect": 9, "planning": 9,
    "api": 10, "fitting": 10,
    "compare": 11, "rounds": 11, "studies": 11,
    "demo": 12,
    "serve": 13, "cli": 13, "__init__": 13, "__main__": 14,
}  # fmt: skip
SHARED = {
    "stages.stage",
    "evals.evaluation",
    "adapt.adapter",
    "models.model",
    "studies.study",
    "rewards.reward",
}
# Who may know a library at all; for all others it would be a second place that changes with it.
KNOWN_TO = {
    "sqlalchemy": ("feedback.database", "feedback.tables", "feedback.store", "feedback.ratinglog", "feedback.itemtable",
                   "feedback.queue", "feedback.migrations"),
    "alembic": ("feedback.database", "feedback.migrations"),
    "vaderSentiment": ("rewards.vader",),
    "psycopg": (),
}  # fmt: skip
TORCH_ONLY_WHEN_USED = (
    "core/*.py", "text/*.py", "cli/*.py", "feedback/*.py",
    *(f"data/{name}.py" for name in ("records", "read", "formats", "clean", "catalog")),
)  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    """Every module by its name inside the package ("core.run", "__init__"), parsed."""
    return {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts): ast.parse(file.read_bytes(), str(file))
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def imports(module: str, tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports anywhere, also inside functions and for types."""
    package = ["lmcraft", *module.split(".")[:-1]]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {resolve(f"{origin}.{alias.name}") for alias in node.names}
    return found - {""}


@cache
def resolve(name: str) -> str:
    """The module of the package that a dotted name is or is part of, or "" for another package's."""
    head, *parts = name.split(".")
    if head != "lmcraft":
        return ""
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").exists():
            return ".".join(parts)
        if path.is_dir():
            return ".".join([*parts, "__init__"])
        parts.pop()
    return "__init__"


def level(module: str) -> int:
    return LEVELS[module.partition(".")[0]]


def test_imports_point_down() -> None:
    """If this failed, parts would know those above them, and could not be read, tested or replaced alone."""
    wrong = [
        f"{module} imports {other}"
        for module, tree in modules().items()
        for other in imports(module, tree)
        if module.partition(".")[0] != other.partition(".")[0] and level(other) >= level(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_a_level() -> None:
    """If this failed, a new folder would escape the rule."""
    assert {module.partition(".")[0] for module in modules()} <= LEVELS.keys()


def test_plugins_of_a_folder_never_import_each_other() -> None:
    """If this failed, deleting one plug-in would break another."""
    wrong = []
    for folder in {name.partition(".")[0] for name in SHARED if (PACKAGE / name.partition(".")[0]).is_dir()}:
        plugins = {f"{folder}.{name}" for name in find.names(folder)} - SHARED
        for module in plugins:
            wrong += [
                f"{module} imports {other}"
                for other in imports(module, modules()[module]) & plugins - {module}
            ]
    assert not wrong, "\n".join(wrong)


def test_the_verbs_of_the_command_line_never_import_each_other() -> None:
    """If this failed, one verb would load what another one needs, and help would get slower with every verb."""
    from lmcraft.cli.main import verbs

    files = {f"cli.{name}" for name in verbs()}
    every = modules()
    wrong = [
        f"{verb} imports {other}" for verb in files for other in imports(verb, every[verb]) & files - {verb}
    ]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_circles() -> None:
    """If this failed, whether a module can be imported would depend on which one comes first."""
    graph = {module: imports(module, tree) for module, tree in modules().items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                # A package's __init__ is always loaded before its modules; it counts only where it imports them.
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_torch_is_imported_only_when_it_is_used() -> None:
    """If this failed, reading a config or a help text would wait seconds for torch."""
    wrong = []
    for pattern in TORCH_ONLY_WHEN_USED:
        for file in PACKAGE.glob(pattern):
            for node in top_level(ast.parse(file.read_bytes()).body):
                names = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
                wrong += [f"{file}:{node.lineno}" for name in names if name.partition(".")[0] == "torch"]
    assert not wrong, "\n".join(wrong)


def test_libraries_of_the_feedback_store_are_known_in_few_places() -> None:
    """If this failed, the package would not start where the extra is missing, or SQL would spread through it."""
    wrong = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for library in {name.partition(".")[0] for name in names} & KNOWN_TO.keys():
                if not any(f"{module}.".startswith(f"{known}.") for known in KNOWN_TO[library]):
                    wrong.append(f"{module} imports {library}")
    assert not wrong, "\n".join(wrong)


def top_level(body: list[ast.stmt]) -> list[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported; those under TYPE_CHECKING do not."""
    found = []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            found += top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            found += top_level([*node.body, *node.orelse, *node.finalbody])
    return found
