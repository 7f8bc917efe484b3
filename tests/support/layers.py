"""The layers of the package as tables, and a checker that holds its modules to them.

The rules are held against the text of the modules, so an import inside a function or under
`TYPE_CHECKING` counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property, wraps
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import TypeGuard

CHECKOUT = Path(__file__).parents[2]

# --- the rules ------------------------------------------------------------------------------------

LAYERS: tuple[tuple[str, ...], ...] = (
    ("rtstore.__main__", "rtstore.cli"),
    ("rtstore", "rtstore.directories", "rtstore.events", "rtstore.parts", "rtstore.records"),
    ("rtstore.aio", "rtstore.testing"),
    ("rtstore.store",),
    ("rtstore.maintenance", "rtstore.recovery"),
    ("rtstore.history", "rtstore.legacy"),
    ("rtstore.commit",),
    ("rtstore.control",),
    ("rtstore.files",),
    ("rtstore.model",),
    ("rtstore.errors", "rtstore.foreign", "rtstore.forks", "rtstore.shell"),
)
"""Top to bottom. A module imports from its own layer and from those below it, never in a circle.
A package stands for all modules in it. `rtstore` alone and the modules by topic are the front door,
which nobody uses but the command."""

PURE = (
    "rtstore.commit.draft",
    "rtstore.errors",
    "rtstore.maintenance.doctor.facts",
    "rtstore.maintenance.doctor.finding",
    "rtstore.maintenance.doctor.judge",
    "rtstore.maintenance.growth",
    "rtstore.maintenance.suggestions",
    "rtstore.model",
    "rtstore.shell",
)
"""No input, no output, no database: what they give follows from what they are given."""

PURE_IMPORTS = {
    "__future__",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "inspect",
    "itertools",
    "json",
    "math",
    "operator",
    "pydantic",
    "pydantic_core",
    "re",
    "shlex",
    "types",
    "typing",
    "typing_extensions",
    "unicodedata",
}
"""What a pure module may import from outside of the package."""

PURE_EXCEPTIONS = {
    ("rtstore.model.arguments", "pathlib"): "arguments may be paths; only their text is looked at",
    ("rtstore.maintenance.doctor.judge", "pathlib"): "commands name paths that it puts together",
    ("rtstore.maintenance.growth", "pathlib"): "commands name paths that it puts together",
    ("rtstore.errors", "pathlib"): "errors carry the path that they are about; it is only shown",
    ("rtstore.model.events", "pathlib"): "events carry the directory that they are about",
    ("rtstore.maintenance.doctor.facts", "pathlib"): "facts carry the paths that they are about",
    ("rtstore.maintenance.suggestions", "pathlib"): "commands name paths that it is given",
    (
        "rtstore.model.ids",
        "time",
    ): "the default id factories read the clock; every user can inject others",
    ("rtstore.model.ids", "secrets"): "the default id factories need random bits",
    ("rtstore.model.objects", "uuid"): "data may hold such ids; none is made",
    ("rtstore.shell", "pathlib"): "paths are typed otherwise than other words",
    (
        "rtstore.commit.draft",
        "time",
    ): "the time that a written file will have; planned with the batch",
}

AMBIENT_TIME = {
    "rtstore.model.times": "the default clock; every user of a time can inject another",
    "rtstore.model.ids": "see PURE_EXCEPTIONS",
    "rtstore.commit.draft": "see PURE_EXCEPTIONS",
}
"""The pure modules that ask what time it is."""

HOMES: dict[str, tuple[str, ...]] = {
    "alembic": ("rtstore.control.revisions",),
    "fcntl": (
        "rtstore.control.sqlite.ground",
        "rtstore.files.new_directory",
        "rtstore.control.lock",
    ),
    "jinja2": ("rtstore.cli.report.page",),
    "markupsafe": ("rtstore.cli.report.page",),
    "pytest": ("rtstore.testing.plugin",),
    "rich": ("rtstore.cli",),
    "sqlite3": (
        "rtstore.cli",
        "rtstore.control.sqlite.added",
        "rtstore.control.sqlite.copying",
        "rtstore.control.sqlite.engine",
        "rtstore.control.sqlite.held",
        "rtstore.control.sqlite.left_wal",
        "rtstore.control.sqlite.sessions",
        "rtstore.control.sqlite.settings",
        "rtstore.control.sqlite.statements",
        "rtstore.control.sqlite.translation",
        "rtstore.control.fingerprints",
        "rtstore.control.parts",
        "rtstore.control.foreign_wal",
        "rtstore.control.revisions",
    ),
    "subprocess": ("rtstore.cli",),
    "typer": ("rtstore.cli",),
}
"""What is used in these places only, so that the rest need not know it."""

STATEMENTS = ("rtstore.control", "rtstore.legacy")
"""Where statements are made: the database's modules, and the import of the legacy directories,
whose few statements nobody else has a use for."""

NAMES_OF_SQLALCHEMY = {"Connection"}
"""What other modules may import from sqlalchemy: the type of the connection they hand through."""

IO_CALLS = {"open", "print", "input", "exec", "eval", "compile", "breakpoint"}
PATH_IO = {
    "absolute", "chmod", "cwd", "exists", "glob", "hardlink_to", "home", "is_dir", "is_file",
    "is_symlink", "iterdir", "lstat", "mkdir", "open", "read_bytes", "read_text", "readlink",
    "rename", "resolve", "rglob", "rmdir", "samefile", "stat", "symlink_to", "touch", "unlink",
    "write_bytes", "write_text",
}  # fmt: skip
CLOCKS = {
    "now", "utcnow", "today", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter",
}  # fmt: skip

SEAM = (
    "rtstore.files.system",
    "rtstore.files.owned",
    "rtstore.control.lock",
    "rtstore.cli.demo.writer",
    "rtstore.cli.streams",
    "rtstore.control.sqlite.ground",
)
"""Where files are changed: the seam, and the lock, which is no file that holds anything. (The
ground of the database only opens what SQLite has open, and writes nothing; the demo
writes to its standard output, and the command opens `/dev/null` for streams that are closed.) What
crash tests could not see happens nowhere else."""

OS_CHANGES = {
    "open", "write", "writev", "pwrite", "truncate", "ftruncate", "rename", "renames", "replace",
    "unlink", "remove", "removedirs", "mkdir", "makedirs", "rmdir", "link", "symlink", "mkfifo",
    "mknod", "chmod", "fchmod", "lchmod", "chown", "utime", "fsync", "fdatasync", "sync",
    "posix_fallocate",
}  # fmt: skip
PATH_CHANGES = {
    "chmod", "hardlink_to", "lchmod", "mkdir", "rename", "rmdir", "symlink_to", "touch", "unlink",
    "write_bytes", "write_text",
}  # fmt: skip
SHUTIL_CHANGES = {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree"}

SQL_CALLS = {"exec_driver_sql", "execute", "executemany", "executescript", "text"}
SQL_EXCEPTIONS = {
    (
        "rtstore/control/sqlite/engine.py",
        "f'PRAGMA {name} = {value}'",
    ): "names and numbers of our own",
    ("rtstore/control/sqlite/engine.py", "f'PRAGMA {name}'"): "names of our own",
    (
        "rtstore/control/sqlite/left_wal.py",
        "f'PRAGMA busy_timeout = {timeout_ms:d}'",
    ): "a number that was read from the same pragma",
    (
        "rtstore/control/revisions.py",
        "f'PRAGMA application_id = {APPLICATION_ID}'",
    ): "a number of our own; a pragma takes no bound value",
    (
        "rtstore/control/parts.py",
        "f'PRAGMA application_id = {APPLICATION_ID}'",
    ): "a number of our own; a pragma takes no bound value",
    (
        "rtstore/control/parts.py",
        "f'PRAGMA user_version = {number}'",
    ): "a number of our own; a pragma takes no bound value",
}
"""SQL that is put together from parts, by file and expression, each with the reason."""

# --- the checker ----------------------------------------------------------------------------------


class Module:
    """One module: its name and its text, and what it imports."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        parts = PurePosixPath(path).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.nodes = tuple(ast.walk(ast.parse(text)))

    @cached_property
    def imports(self) -> tuple[tuple[str, str | None, int], ...]:
        """Every import: the module, the name taken from it, and the line."""
        found: list[tuple[str, str | None, int]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += ((alias.name, None, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(node)
                found += ((source, alias.name, node.lineno) for alias in node.names)
        return tuple(found)

    @property
    def calls(self) -> Iterator[ast.Call]:
        """Every call."""
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*base, node.module] if node.module else base)


@cache
def module_of(path: str, text: str) -> Module:
    """Return the module with a text: the same one each time, so that what is found in it is looked
    for once."""
    return Module(path, text)


class Package:
    """The modules of the package below a root."""

    def __init__(self, root: Path, added: Mapping[str, str] | None = None) -> None:
        """Read them, with lines that are `added` to files, or are files of their own."""
        texts = {
            path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted((root / "rtstore").rglob("*.py"))
        }
        for path, lines in (added or {}).items():
            texts[path] = f"{texts.get(path, '')}\n{lines}\n"
        found = (module_of(path, text) for path, text in texts.items())
        self.modules = {module.name: module for module in found}

    def needs(self, module: Module) -> Iterator[tuple[str, int]]:
        """The modules of the package that a module imports, each with the line."""
        for source, name, line in module.imports:
            whole = f"{source}.{name}"
            if whole in self.modules:
                yield whole, line
            elif source in self.modules:
                yield source, line
            elif source.split(".")[0] == "rtstore":
                yield from ((known, line) for known in (source.rpartition(".")[0],) if known)


def layer_of(name: str) -> int | None:
    """The number of the layer that a module is in, or None when it has no place."""
    for number, layer in enumerate(LAYERS):
        if name in layer:
            return number
    parent = name.rpartition(".")[0]
    return layer_of(parent) if parent not in ("", "rtstore") else None


def is_in(name: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of the places, or inside of one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def misplaced(package: Package) -> Iterator[str]:
    """Modules that are in no layer, and places in the table that no module has."""
    for name in package.modules:
        if layer_of(name) is None:
            yield f"{name} has no place in LAYERS"
    for place in (place for layer in LAYERS for place in layer):
        if place not in package.modules:
            yield f"{place} is in LAYERS, but there is no such module"


def upward_imports(package: Package) -> Iterator[str]:
    """Imports from a lower layer to a higher one."""
    for module in package.modules.values():
        mine = layer_of(module.name)
        for name, line in package.needs(module):
            other = layer_of(name)
            if mine is not None and other is not None and other < mine:
                yield f"{module.path}:{line} imports {name} from a layer above it"


def circles(package: Package) -> Iterator[str]:
    """Modules that import each other, directly or through others."""
    graph = {
        module.name: {name for name, _ in package.needs(module)} - {module.name}
        for module in package.modules.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"a circle of imports: {' <- '.join(error.args[1])}"


def of_each_module(rule: Callable[[Module], Iterator[str]]) -> Callable[[Package], Iterator[str]]:
    """Make a rule about one module one about the package. Each module is looked at once."""
    found = cache(lambda module: tuple(rule(module)))

    @wraps(rule)
    def of_all(package: Package) -> Iterator[str]:
        for module in package.modules.values():
            yield from found(module)

    return of_all


@of_each_module
def strays_from_home(module: Module) -> Iterator[str]:
    """Imports of what belongs to a few places only, and imports that hide their name."""
    for source, name, line in module.imports:
        top = source.split(".")[0]
        where = f"{module.path}:{line}"
        if top in HOMES and not is_in(module.name, HOMES[top]):
            yield f"{where} imports {top}, which belongs to {', '.join(HOMES[top])}"
        elsewhere = top == "sqlalchemy" and not is_in(module.name, STATEMENTS)
        if elsewhere and name not in NAMES_OF_SQLALCHEMY:
            yield f"{where} imports {name or source} from sqlalchemy outside of the database"
        # The front door imports by a table; test_tidy holds it against what is seen there.
        if (top, name) == ("importlib", "import_module") and module.name != "rtstore":
            yield f"{where} imports by a name that no test can see"
    for node in module.nodes:
        if isinstance(node, ast.Name) and node.id == "__import__":
            yield f"{module.path}:{node.lineno} imports by a name that no test can see"


@of_each_module
def impurities(module: Module) -> Iterator[str]:
    """Input, output and clocks in the pure modules."""
    if not is_in(module.name, PURE):
        return
    imported = set()
    for source, _, line in module.imports:
        top = source.split(".")[0]
        imported.add(top)
        allowed = top in PURE_IMPORTS or (module.name, top) in PURE_EXCEPTIONS
        if top != "rtstore" and not allowed:
            yield f"{module.path}:{line} is pure, but imports {top}"
    for call in module.calls:
        problem = _impure_call(module, call, imported)
        if problem:
            yield f"{module.path}:{call.lineno} is pure, but {problem}"


def _impure_call(module: Module, call: ast.Call, imported: set[str]) -> str | None:
    function = call.func
    if isinstance(function, ast.Name) and function.id in IO_CALLS:
        return f"calls {function.id}()"
    if isinstance(function, ast.Attribute):
        if function.attr in PATH_IO and "pathlib" in imported:
            return f"calls {function.attr}() of a path"
        if function.attr in CLOCKS and module.name not in AMBIENT_TIME:
            return f"asks what time it is: {ast.unparse(function)}()"
    return None


@of_each_module
def past_the_seam(module: Module) -> Iterator[str]:
    """Files that are changed without the seam."""
    if is_in(module.name, SEAM):
        return
    for call in module.calls:
        if _changes_files(call.func):
            yield f"{module.path}:{call.lineno} changes files past the seam: " + (
                ast.unparse(call.func)
            )


def _changes_files(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "open"
    if not isinstance(function, ast.Attribute):
        return False
    owner = ast.unparse(function.value)
    if owner in ("os", "shutil"):
        return function.attr in (OS_CHANGES if owner == "os" else SHUTIL_CHANGES)
    return function.attr in PATH_CHANGES and not owner.endswith("fs")


@of_each_module
def built_sql(module: Module) -> Iterator[str]:
    """SQL that is put together from parts where it is run."""
    built = _names_of_built_text(module.nodes)
    for call, given in run_sql(module):
        sql = built.get(given.id, given) if isinstance(given, ast.Name) else given
        if _is_built(sql) and (module.path, ast.unparse(sql)) not in SQL_EXCEPTIONS:
            yield f"{module.path}:{call.lineno} puts SQL together: {ast.unparse(sql)}"


def run_sql(module: Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Every call that runs SQL or makes it of a text, with what it gets."""
    for call in module.calls:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if call.args and name in SQL_CALLS:
            yield call, call.args[0]


def _names_of_built_text(nodes: tuple[ast.AST, ...]) -> dict[str, ast.expr]:
    found = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and _is_built(node.value):
            found.update(
                {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
            )
    return found


def _is_built(node: ast.expr) -> bool:
    """Whether an expression makes text from parts: an f-string, `%`, `+`, format(), join()."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in node.values)
    if isinstance(node, ast.BinOp):
        return any(
            isinstance(part, ast.JoinedStr)
            or (isinstance(part, ast.Constant) and isinstance(part.value, str))
            for part in ast.walk(node)
        )
    if isinstance(node, ast.IfExp):
        return _is_built(node.body) or _is_built(node.orelse)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("format", "format_map", "join", "replace")
    return False


@of_each_module
def cut_by_forks(module: Module) -> Iterator[str]:
    """Imports inside of functions that a fork does not wait for. The command has no threads."""
    if is_in(module.name, ("rtstore.cli", "rtstore.testing")):
        return
    whole = {
        inner
        for node in module.nodes
        if isinstance(node, ast.With) and ast.unparse(node.items[0]) == "no_fork()"
        for inner in ast.walk(node)
    }
    for function in module.nodes:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if _imports(node) and node not in whole:
                    yield f"{module.path}:{node.lineno} imports where a fork may cut it in two"


def _imports(node: ast.AST) -> TypeGuard[ast.expr | ast.stmt]:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("import_module", "importlib.import_module")
    return isinstance(node, ast.Import | ast.ImportFrom)


RULES = (
    misplaced, upward_imports, circles, strays_from_home, impurities, past_the_seam, built_sql,
    cut_by_forks,
)  # fmt: skip


def findings(package: Package) -> Iterator[str]:
    """What breaks a rule in a package, rule by rule as it is asked for."""
    return (finding for rule in RULES for finding in rule(package))
