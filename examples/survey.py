"""The facts of one Python module, gathered in a single walk of its syntax tree.

The walk keeps its own stack: a tree may be deeper than Python's recursion
limit, and visiting each node once with little ado is what makes a large folder
a matter of seconds. A module is never imported or run.
"""

import ast
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

_FILE_NAME = "<surveyed>"

# Calls that can reach a name without writing it; the latter without arguments.
_EVALUATION = frozenset({"eval", "exec"})
_NAMESPACES = frozenset({"dir", "globals", "locals", "vars"})

_ANNOTATION = re.compile(r"[\w\s.,|\[\]\"']{1,200}")
_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(slots=True, eq=False)
class Scope:
    """A module, class or function, and what happens directly in it.

    Attributes:
        node: Its syntax tree.
        name: Its qualified name; empty for the module.
        parent: The scope around it.
        complexity: Its cyclomatic complexity: one, and one for each branch.
            Nested functions and classes count for themselves.
        reads: The names that it or a scope inside it reads.
        assigned: The names that it binds by a plain assignment, and where.
        imported: The names that it binds by an import, and where.
        exempt: The names that are not its own to judge: parameters, `global`.
        has_reflection: Whether it may reach names without writing them.
    """

    node: ast.Module | Definition
    name: str = ""
    parent: "Scope | None" = None
    complexity: int = 1
    reads: set[str] = field(default_factory=set)
    assigned: dict[str, ast.Name] = field(default_factory=dict)
    imported: dict[str, ast.alias] = field(default_factory=dict)
    exempt: set[str] = field(default_factory=set)
    has_reflection: bool = False

    @property
    def is_function(self) -> bool:
        """Whether this is a function or a method."""
        return isinstance(self.node, Function)

    @property
    def title(self) -> str:
        """What this is, and its name."""
        if isinstance(self.node, ast.Module):
            return "module"
        return f"{'class' if isinstance(self.node, ast.ClassDef) else 'function'} {self.name}"

    @property
    def line(self) -> int:
        """The line of its name, or of the first statement of a module."""
        first = self.node.body[0] if isinstance(self.node, ast.Module) else self.node
        return first.lineno

    @property
    def length(self) -> int:
        """How many lines it has, from `line` on."""
        return (self.node.body[-1].end_lineno or self.line) - self.line + 1

    @property
    def is_public(self) -> bool:
        """Whether its name, and each around it, is meant to be used from outside."""
        if self.parent is None:
            return True
        if self.parent.is_function or self.name.rpartition(".")[2].startswith("_"):
            return False
        return self.parent.is_public


@dataclass(slots=True, eq=False)
class Survey:
    """What one walk over a module finds.

    Attributes:
        module: The scope of the module.
        scopes: Every scope, outer ones first.
        bare_excepts: The handlers of any exception that do not raise it again.
        uses: What the module uses of others: pairs of a module's last name and
            a name in it, `*` for all of them.
    """

    module: Scope
    scopes: list[Scope]
    bare_excepts: list[ast.ExceptHandler] = field(default_factory=list)
    uses: set[tuple[str, str]] = field(default_factory=set)


# Before Python 3.13 all threads share the parser's count of how deep it is, and two that parse at
# once may fail with a SystemError (CPython issue 106905).
_parsing = threading.Lock()


def survey_source(source: bytes) -> Survey:
    """Parses a module and surveys it.

    Raises:
        SyntaxError: It does not parse.
    """
    # Parsing warns of doubtful escapes and the like, which are no concern here;
    # `catch_warnings` would disturb the other threads of this process.
    warnings.filterwarnings("ignore", module=re.escape(_FILE_NAME))
    try:
        with _parsing:
            tree = ast.parse(source, _FILE_NAME)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "too deeply nested") from error
    return _Walk(tree).finish()


class _Walk:
    """The walk itself: a stack of nodes, each with its scope.

    An import is guarded where it is tried, or meant for type checkers: that
    its name is not used says nothing then.
    """

    def __init__(self, tree: ast.Module) -> None:
        module = Scope(tree)
        self._survey = Survey(module, [module])
        self._attributes: set[tuple[str, str]] = set()
        self._module_names: dict[str, str] = {}
        self._guarded: set[ast.stmt] = set()
        self._pending: list[tuple[ast.AST, Scope]] = []
        self._push(tree.body, module)

    def finish(self) -> Survey:
        """Visits every node, then draws the sums over the scopes."""
        while self._pending:
            node, scope = self._pending.pop()
            _VISITORS.get(type(node), _Walk.visit_children)(self, node, scope)
        for scope in reversed(self._survey.scopes):
            if scope.parent is not None:
                scope.parent.reads |= scope.reads
                scope.parent.has_reflection |= scope.has_reflection
        self._survey.uses.update(
            (self._module_names[name], attribute)
            for name, attribute in self._attributes
            if name in self._module_names
        )
        return self._survey

    def _push(self, nodes: Sequence[ast.AST], scope: Scope) -> None:
        self._pending.extend((node, scope) for node in reversed(nodes))

    def visit_children(self, node: ast.AST, scope: Scope) -> None:
        self._push(list(ast.iter_child_nodes(node)), scope)

    def visit_branch(self, node: ast.AST, scope: Scope) -> None:
        scope.complexity += 1
        self.visit_children(node, scope)

    def visit_bool_op(self, node: ast.BoolOp, scope: Scope) -> None:
        scope.complexity += len(node.values) - 1
        self._push(node.values, scope)

    def visit_comprehension(self, node: ast.comprehension, scope: Scope) -> None:
        scope.complexity += 1 + len(node.ifs)
        self.visit_children(node, scope)

    def visit_match_case(self, node: ast.match_case, scope: Scope) -> None:
        is_wildcard = isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None
        scope.complexity += 0 if is_wildcard and node.guard is None else 1
        self.visit_children(node, scope)

    def visit_if(self, node: ast.If, scope: Scope) -> None:
        if node in self._guarded or _is_for_type_checkers(node.test):
            self._guarded.update(node.body)
        self.visit_branch(node, scope)

    def visit_try(self, node: ast.Try, scope: Scope) -> None:
        self._guarded.update(node.body)
        self.visit_children(node, scope)

    def visit_handler(self, node: ast.ExceptHandler, scope: Scope) -> None:
        self._guarded.update(node.body)
        last = node.body[-1]
        raises_again = isinstance(last, ast.Raise) and last.exc is None
        if node.type is None and not raises_again:
            self._survey.bare_excepts.append(node)
        self.visit_branch(node, scope)

    def visit_function(self, node: Function, scope: Scope) -> None:
        inner = self._enter(node, scope)
        inner.exempt.update(arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg))
        self._push(node.body, inner)

    def visit_class(self, node: ast.ClassDef, scope: Scope) -> None:
        self._push(node.body, self._enter(node, scope))

    def _enter(self, node: Definition, scope: Scope) -> Scope:
        """Opens the scope of a definition; what is outside its body stays in the outer one."""
        name = f"{scope.name}.{node.name}" if scope.name else node.name
        inner = Scope(node, name, scope)
        self._survey.scopes.append(inner)
        body = frozenset(node.body)
        self._push([child for child in ast.iter_child_nodes(node) if child not in body], scope)
        return inner

    def visit_name(self, node: ast.Name, scope: Scope) -> None:
        if not isinstance(node.ctx, ast.Store):
            scope.reads.add(node.id)

    def visit_attribute(self, node: ast.Attribute, scope: Scope) -> None:
        if isinstance(node.value, ast.Name):
            self._attributes.add((node.value.id, node.attr))
        self._push([node.value], scope)

    def visit_constant(self, node: ast.Constant, scope: Scope) -> None:
        # An annotation in quotes, a name in `__all__` or the like.
        if isinstance(node.value, str) and _ANNOTATION.fullmatch(node.value):
            scope.reads.update(_NAME.findall(node.value))

    def visit_expression(self, node: ast.Expr, scope: Scope) -> None:
        if not isinstance(node.value, ast.Constant):
            self._push([node.value], scope)

    def visit_call(self, node: ast.Call, scope: Scope) -> None:
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called in _EVALUATION or (called in _NAMESPACES and not node.args):
            scope.has_reflection = True
        self.visit_children(node, scope)

    def visit_assign(self, node: ast.Assign, scope: Scope) -> None:
        if len(node.targets) == 1:
            self._bind(node.targets[0], node.value, scope)
        self.visit_children(node, scope)

    def visit_annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self._bind(node.target, node.value, scope)
        self.visit_children(node, scope)

    def _bind(self, target: ast.expr, value: ast.expr, scope: Scope) -> None:
        # Assigning None lets go of a value: the name is not meant to be read.
        lets_go = isinstance(value, ast.Constant) and value.value is None
        if isinstance(target, ast.Name) and not lets_go:
            scope.assigned.setdefault(target.id, target)

    def visit_augmented(self, node: ast.AugAssign, scope: Scope) -> None:
        if isinstance(node.target, ast.Name):
            scope.reads.add(node.target.id)
        self.visit_children(node, scope)

    def visit_declared(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        scope.exempt.update(node.names)
        scope.reads.update(node.names)

    def visit_import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            self._module_names[name] = alias.name.rpartition(".")[2]
            # `import a.b` may be there to load `b` alone.
            if "." not in name:
                self._import(node, alias, scope)

    def visit_import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = (node.module or "").rpartition(".")[2]
        for alias in node.names:
            self._survey.uses.add((module, alias.name))
            self._module_names[alias.asname or alias.name] = alias.name
            # A private module is often there to be shown by the one that imports it.
            if alias.name != "*" and not module.startswith("_"):
                self._import(node, alias, scope)

    def _import(self, node: ast.Import | ast.ImportFrom, alias: ast.alias, scope: Scope) -> None:
        # `import a as a` says that the name is there for others.
        is_meant = alias.asname == alias.name or alias.name.startswith("__")
        if not is_meant and node not in self._guarded:
            scope.imported.setdefault(alias.asname or alias.name, alias)


def _is_for_type_checkers(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


_VISITORS: dict[type[ast.AST], Callable[..., None]] = {
    ast.AnnAssign: _Walk.visit_annotated,
    ast.Assert: _Walk.visit_branch,
    ast.Assign: _Walk.visit_assign,
    ast.AsyncFor: _Walk.visit_branch,
    ast.AsyncFunctionDef: _Walk.visit_function,
    ast.Attribute: _Walk.visit_attribute,
    ast.AugAssign: _Walk.visit_augmented,
    ast.BoolOp: _Walk.visit_bool_op,
    ast.Call: _Walk.visit_call,
    ast.ClassDef: _Walk.visit_class,
    ast.Constant: _Walk.visit_constant,
    ast.ExceptHandler: _Walk.visit_handler,
    ast.Expr: _Walk.visit_expression,
    ast.For: _Walk.visit_branch,
    ast.FunctionDef: _Walk.visit_function,
    ast.Global: _Walk.visit_declared,
    ast.If: _Walk.visit_if,
    ast.IfExp: _Walk.visit_branch,
    ast.Import: _Walk.visit_import,
    ast.ImportFrom: _Walk.visit_import_from,
    ast.Name: _Walk.visit_name,
    ast.Nonlocal: _Walk.visit_declared,
    ast.Try: _Walk.visit_try,
    ast.TryStar: _Walk.visit_try,
    ast.While: _Walk.visit_branch,
    ast.comprehension: _Walk.visit_comprehension,
    ast.match_case: _Walk.visit_match_case,
}
