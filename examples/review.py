"""What a reviewer would say of Python modules: findings, each on a line of code.

Fewer true findings are worth more than many doubtful ones: a name that might
be used by means that a syntax tree does not show is not called unused.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from citations import Citation
from documents import Document
from survey import Definition, Function, Scope, Survey, survey_source

MAX_COMPLEXITY = 15
MAX_LENGTH = 80

_MUTABLE_DISPLAYS = (ast.Dict, ast.DictComp, ast.List, ast.ListComp, ast.Set, ast.SetComp)
_MUTABLE_TYPES = frozenset({"bytearray", "defaultdict", "deque", "dict", "list", "set"})

# Names that say themselves that nobody will read them.
_MEANT_UNUSED = frozenset({"dummy", "ignored", "unused"})

# Decorators of functions that share the docstring of another.
_SHARING_DECORATORS = frozenset({"deleter", "getter", "overload", "override", "setter"})


class Kind(Enum):
    """What a finding is about; the value is its heading."""

    UNPARSABLE = "files that do not parse"
    COMPLEX = f"functions with a cyclomatic complexity over {MAX_COMPLEXITY}"
    LONG = f"functions of more than {MAX_LENGTH} lines"
    UNUSED = "names that no reviewed module uses"
    BARE_EXCEPT = "bare excepts that do not raise again"
    MUTABLE_DEFAULT = "mutable default arguments"
    UNDOCUMENTED = "public modules, classes and functions without a docstring"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say.

    Attributes:
        kind: What it is about.
        citation: The line to look at.
        note: What is wrong there.
        weight: How bad it is beside others of its kind.
    """

    kind: Kind
    citation: Citation
    note: str
    weight: int = 0


class Review:
    """The review of a folder: `add` each module, then ask for the findings.

    Attributes:
        files: How many modules there are.
        lines: How many lines they have.
        complexities: The complexity of each function.
    """

    def __init__(self) -> None:
        """Begins without any module."""
        self.files = 0
        self.lines = 0
        self.complexities: list[int] = []
        self._findings: list[Finding] = []
        self._unused: list[tuple[str, str, Finding]] = []
        self._uses: set[tuple[str, str]] = set()

    def add(self, document: Document) -> None:
        """Reviews a module."""
        module = _Module(document)
        self.files += 1
        self.lines += len(module.lines)
        try:
            survey = survey_source(document.data)
        except SyntaxError as error:
            self._findings.append(module.find(Kind.UNPARSABLE, error.lineno or 1, error.msg))
            return
        self._uses |= survey.uses
        self.complexities += [scope.complexity for scope in survey.scopes if scope.is_function]
        self._findings += _check(module, survey)
        self._unused += [
            (module.name, name, finding) for name, finding in _find_unused_globals(module, survey)
        ]

    def conclude(self) -> list[Finding]:
        """All findings, now that it is known what the modules use of each other."""
        return self._findings + [
            finding
            for module, name, finding in self._unused
            if not {(module, name), (module, "*")} & self._uses
        ]


class _Module:
    """A module's lines, and how to point at them."""

    def __init__(self, document: Document) -> None:
        path = PurePosixPath(document.path)
        self.path = document.path
        self.lines = document.lines
        self._data = document.data
        self.is_package = path.stem == "__init__"
        self.name = path.parent.name if self.is_package else path.stem
        names = (*path.parent.parts, self.name)
        self.is_public = not any(name.startswith("_") for name in names)

    def count(self, name: str) -> int:
        """How often a name occurs in the text, in comments and strings as well."""
        return self._data.count(name.encode())

    def find(self, kind: Kind, line: int, note: str, weight: int = 0) -> Finding:
        """Makes a finding on a line."""
        # A parser may point past the end of a file, where something is missing.
        line = min(line, len(self.lines))
        return Finding(kind, Citation(self.path, line, self.lines[line - 1]), note, weight)

    def has_noqa(self, line: int) -> bool:
        """Whether the author has asked linters to leave a line alone."""
        return "noqa" in self.lines[line - 1]


def _check(module: _Module, survey: Survey) -> Iterator[Finding]:
    """All that can be said of a module without knowing the others."""
    for scope in survey.scopes:
        if isinstance(scope.node, Function):
            yield from _check_size(module, scope)
            yield from _check_defaults(module, scope, scope.node.args)
            yield from _find_unused_locals(module, scope)
        if module.is_public and scope.is_public and _lacks_docstring(scope.node):
            note = f"{scope.title}, {scope.length:,} lines"
            yield module.find(Kind.UNDOCUMENTED, scope.line, note, scope.length)
    for handler in survey.bare_excepts:
        yield module.find(Kind.BARE_EXCEPT, handler.lineno, "catches even KeyboardInterrupt")


def _check_size(module: _Module, scope: Scope) -> Iterator[Finding]:
    if scope.complexity > MAX_COMPLEXITY:
        note = f"{scope.name}: complexity {scope.complexity}"
        yield module.find(Kind.COMPLEX, scope.line, note, scope.complexity)
    if scope.length > MAX_LENGTH:
        note = f"{scope.name}: {scope.length:,} lines"
        yield module.find(Kind.LONG, scope.line, note, scope.length)


def _check_defaults(module: _Module, scope: Scope, args: ast.arguments) -> Iterator[Finding]:
    for default in (*args.defaults, *args.kw_defaults):
        if default is not None and _is_mutable(default):
            note = f"{scope.name}: every call shares one value"
            yield module.find(Kind.MUTABLE_DEFAULT, default.lineno, note)


def _is_mutable(default: ast.expr) -> bool:
    if isinstance(default, ast.Call):
        return isinstance(default.func, ast.Name) and default.func.id in _MUTABLE_TYPES
    return isinstance(default, _MUTABLE_DISPLAYS)


def _find_unused_locals(module: _Module, scope: Scope) -> Iterator[Finding]:
    """The names that a function binds and neither it nor one inside it reads."""
    if scope.has_reflection:
        return
    bound: dict[str, ast.Name | ast.alias] = {**scope.assigned, **scope.imported}
    for name, node in bound.items():
        is_meant = name in _MEANT_UNUSED or name.startswith("_") or module.has_noqa(node.lineno)
        if name not in scope.reads | scope.exempt and not is_meant:
            what = "import" if isinstance(node, ast.alias) else "variable"
            note = f"{scope.name}: {what} {name}"
            yield module.find(Kind.UNUSED, node.lineno, note, weight=1)


def _find_unused_globals(module: _Module, survey: Survey) -> Iterator[tuple[str, Finding]]:
    """The imports and private definitions that a module itself never uses."""
    if survey.module.has_reflection:
        return
    # What a package imports is there for those who import the package.
    imported = {} if module.is_package else survey.module.imported
    for name, alias in imported.items():
        if name not in survey.module.reads and not module.has_noqa(alias.lineno):
            yield name, module.find(Kind.UNUSED, alias.lineno, f"import {name}", weight=1)
    # These weigh least, since code in another language may still call them.
    for scope in survey.scopes:
        if scope.parent is survey.module and _is_unused_definition(module, scope.node):
            yield scope.name, module.find(Kind.UNUSED, scope.line, f"private {scope.title}")


def _is_unused_definition(module: _Module, node: ast.Module | Definition) -> bool:
    """Whether a private definition is the only mention of its name in the module.

    One with a decorator, base class or keyword may be registered somewhere.
    """
    if isinstance(node, ast.Module) or node.decorator_list:
        return False
    if isinstance(node, ast.ClassDef) and (node.bases or node.keywords):
        return False
    is_private = node.name.startswith("_") and not node.name.endswith("__")
    return is_private and module.count(node.name) == 1


def _lacks_docstring(node: ast.Module | Definition) -> bool:
    if not node.body or ast.get_docstring(node, clean=False) is not None:
        return False
    decorators = [] if isinstance(node, ast.Module) else node.decorator_list
    return not any(_name_decorator(decorator) in _SHARING_DECORATORS for decorator in decorators)


def _name_decorator(decorator: ast.expr) -> str:
    if isinstance(decorator, ast.Attribute):
        return decorator.attr
    return decorator.id if isinstance(decorator, ast.Name) else ""
