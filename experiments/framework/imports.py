"""Which modules a piece of code reaches, read from its source: nothing is imported.

A name that a package's front hands on (`vt.project`, `from vashista_theory import relax`) stands
for the module that defines it, also where the front imports it on first use only (PEP 562): its
`if TYPE_CHECKING` block says where it is from. Where a front imports modules of its own below the
top level, as registries do, by name or in a loop over its folder, they count with everything that
is reached below it. In doubt a module is counted: a front that is passed around whole stands for
all it has, a module that imports by a name it computes for all of its folder.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# Drawing, showing, storing and labels: they cannot change a number, and are not followed.
NO_INFLUENCE = (
    "experiments.framework",
    "vashista_theory.plots",
    "vashista_theory.explore",
    "vashista_theory._version",
    "vashista_theory.runs.progress",
    "vashista_theory.runs.manifest",
)

Target = tuple[str, ...]  # a module, and names within


@dataclass(frozen=True)
class Code:
    """What counts of one module.

    Attributes:
        digest: Of its syntax, without prose.
        targets: What it imports, or reaches through a front.
        bound: What its own names stand for, where they are imported.
        defined: Names that it defines itself.
        computed: Whether it imports by names that it computes.
        loops: Whether it does so in a loop of its own, whenever it is imported.
        data: Whether it reads files that lie beside it.
    """

    digest: str
    targets: frozenset[Target]
    bound: dict[str, Target]
    defined: frozenset[str]
    computed: bool
    loops: bool
    data: bool


@dataclass(frozen=True)
class Graph:
    """The modules of the packages that lie in `root`.

    Attributes:
        root: The folder that holds them.
        packages: Their names; everything else is somebody else's.
    """

    root: Path = _ROOT
    packages: tuple[str, ...] = ("vashista_theory", "experiments")
    _files: dict[str, Path | None] = field(default_factory=dict)
    _codes: dict[tuple[Path, frozenset[str]], Code] = field(default_factory=dict)
    _resolved: dict[Target, list[str]] = field(default_factory=dict)

    def reached(self, start: str, *, unless_for: frozenset[str] = frozenset()) -> dict[str, str]:
        """Digests of the module `start` and of all that it reaches, by the path of the file.

        Args:
            start: A dotted name.
            unless_for: Names in `start`; what only they need does not count.
        """
        found: dict[str, str] = {}
        waiting = [start]
        while waiting:
            module = waiting.pop()
            path = self._file(module)
            if path is None or path.as_posix() in found or _is_below(module, NO_INFLUENCE):
                continue
            code = self._code(path, unless_for if module == start else frozenset())
            found[path.as_posix()] = code.digest
            for target in code.targets:
                if target not in self._resolved:
                    self._resolved[target] = list(self._resolve(target))
                waiting += self._resolved[target]
            beside = (
                sorted((self.root / path).parent.rglob("*")) if code.computed or code.data else []
            )
            waiting += (_dotted(one.relative_to(self.root)) for one in beside if code.computed)
            found |= {
                one.relative_to(self.root).as_posix(): hashlib.sha256(one.read_bytes()).hexdigest()
                for one in beside
                if code.data and one.is_file() and one.suffix not in (".py", ".pyc", ".md")
            }
        return dict(sorted(found.items()))

    def _resolve(self, target: Target, seen: frozenset[Target] = frozenset()) -> Iterator[str]:
        """The modules that a target stands for, with those registered beside them."""
        module, *names = target
        if target in seen or self._file(module) is None:
            return
        parts = module.split(".")
        for package in (".".join(parts[:length]) for length in range(2, len(parts) + 1)):
            yield from self._registered(package)
        while (path := self._file(module)) is not None and path.name == "__init__.py":
            front = self._code(path)
            if not names:
                yield module
                for known in front.bound.values():
                    yield from self._resolve(known, seen | {target})
                return
            name, *names = names
            below = f"{module}.{name}"
            known = front.bound.get(name, (below,))
            if known not in ((below,), (module, name)):
                yield from self._resolve((*known, *names), seen | {target})
                return
            if name in front.defined or self._file(below) is None:
                yield module
                return
            module = below
            yield from self._registered(module)
        yield module

    def _registered(self, package: str) -> Iterator[str]:
        """The modules of its own that the front of a package below the top imports as modules."""
        path = self._file(package)
        if path is not None and path.name == "__init__.py":
            front = self._code(path)
            names = {".".join(target) for target in front.bound.values()}
            if front.loops:
                beside = (self.root / path).parent.glob("[!_]*.py")
                names |= {f"{package}.{one.stem}" for one in beside}
            yield from (name for name in names if _is_below(name, (package,)) and self._file(name))

    def _code(self, path: Path, unless_for: frozenset[str] = frozenset()) -> Code:
        if (path, unless_for) not in self._codes:
            text = (self.root / path).read_text(encoding="utf-8")
            self._codes[path, unless_for] = _read(text, unless_for)
        return self._codes[path, unless_for]

    def _file(self, module: str) -> Path | None:
        """The file of a module of these packages, relative to the root."""
        if module.partition(".")[0] not in self.packages:
            return None
        if module not in self._files:
            place = Path(*module.split("."))
            paths = (place.with_suffix(".py"), place / "__init__.py")
            there = (path for path in paths if (self.root / path).is_file())
            self._files[module] = next(there, None)
        return self._files[module]


def _is_below(module: str, packages: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


@functools.cache
def _read(text: str, unless_for: frozenset[str]) -> Code:
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    bound = _bound(nodes)
    idle = bound.keys() - _mentioned(nodes)
    _strip(nodes)
    _leave_out(tree, unless_for)
    nodes = list(ast.walk(tree))
    mentioned = _mentioned(nodes)
    kept = _plain(tree), sorted((name, bound[name]) for name in mentioned & bound.keys())
    return Code(
        digest=hashlib.sha256(repr(kept).encode()).hexdigest(),
        targets=frozenset({*_reached_names(nodes, bound), *(bound[name] for name in idle)}),
        bound=bound,
        defined=frozenset(name for node in tree.body for name in _names(node)),
        computed=any(_imports_by_a_computed_name(node) for node in nodes),
        loops=any(
            _imports_by_a_computed_name(node)
            for statement in tree.body
            if isinstance(statement, ast.For)
            for node in ast.walk(statement)
        ),
        data="resources" in mentioned & bound.keys(),
    )


def _strip(nodes: Iterable[ast.AST]) -> None:
    """Take out prose and imports; comments and spaces are no part of a syntax tree."""
    for node in nodes:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                value[:] = [one for one in value if not _is_prose_or_import(one)]


def _is_prose_or_import(node: object) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())) | ast.Import() | ast.ImportFrom():
            return True
    return False


def _plain(node: object) -> object:
    """The tree as tuples, the same in every version of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, _plain(value)) for name, value in ast.iter_fields(node))
        return type(node).__name__, tuple(one for one in fields if one[1] not in (None, ()))
    if isinstance(node, list):
        return tuple(_plain(one) for one in node)
    return None if node is None else repr(node)


def _leave_out(tree: ast.Module, names: frozenset[str]) -> None:
    """Take out the top-level statements that make these names, and what only they need."""
    if not names:
        return
    statements = [(set(_names(node)), _mentioned(ast.walk(node)), node) for node in tree.body]

    def needed(wanted: set[str]) -> set[str]:
        seen: set[str] = set()
        while new := wanted - seen:
            seen |= new
            wanted = {name for made, uses, _ in statements if made & new for name in uses}
        return seen

    theirs = needed(set(names))
    others = [(made, uses) for made, uses, _ in statements if not made or not made <= theirs]
    kept = needed({name for made, uses in others for name in made | uses} - names)
    tree.body = [node for made, _, node in statements if not made or made & kept]


def _mentioned(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def _names(statement: ast.stmt) -> Iterator[str]:
    """What a top-level statement gives a name to."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (name for target in targets for name in _mentioned(ast.walk(target)))
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            yield from _mentioned(ast.walk(target))


def _bound(nodes: Iterable[ast.AST]) -> dict[str, Target]:
    """What imported names stand for, wherever in the module they are imported."""
    bound: dict[str, Target] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            bound |= {one.asname or one.name: (node.module, one.name) for one in node.names}
        elif isinstance(node, ast.Import):
            first = ((one, one.name.partition(".")[0]) for one in node.names)
            bound |= {one.asname or top: (one.name if one.asname else top,) for one, top in first}
    return bound


def _reached_names(nodes: list[ast.AST], bound: dict[str, Target]) -> Iterator[Target]:
    """What code reaches, as far as it says so."""
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if "." in text:
                if text.replace(".", "").isidentifier():
                    yield (text,)  # a module that another process is told to run
            case ast.Attribute() | ast.Name() if id(node) not in inner:
                names = ast.unparse(node).split(".")
                if names[0] in bound:
                    yield (*bound[names[0]], *names[1:])


def _imports_by_a_computed_name(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.JoinedStr(), *_]):
            return True
    return False
