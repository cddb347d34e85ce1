"""Measures of the house: code lines by wing, and how the code is named and cut. `python scripts/measures.py`

Code lines are those that hold a token of code: no blanks, comments or docstrings. Complexity is McCabe's,
as ruff counts it. `tests/test_house.py` holds each measure to what it was when it was last lowered.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "streamlearn"

WORKSHOP = ("cli", "demo", "history", "studies")
"""The rooms that work on streams of the past and on words of the command line; all others are the service."""

_EMPTY = """
    found at part place one known told kept given taken settled asked some thing other it what who how much
    many inside outside wanted sent made done here there
"""
EMPTY_NAMES = frozenset(_EMPTY.split())
"""Names that say nothing when they stand alone."""

VAGUE_DOCSTRING = re.compile(r"\W*(what|whether|where|of|who|how|which|why)\b", re.IGNORECASE)
OF = re.compile(r"_*(of_\w+|\w+_of)")
COMPLEX = 10

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
    ast.Assert,
)
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def modules() -> list[Path]:
    """The package's modules."""
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree(module: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(module.read_text(encoding="utf-8"), str(module))


def docstrings(module: Path) -> Iterator[ast.Constant]:
    """The strings that stand alone as statements: docstrings, also those of attributes."""
    for node in ast.walk(tree(module)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def code_lines(module: Path) -> int:
    """The number of lines that hold code."""
    documented = {
        line
        for text in docstrings(module)
        for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.read_text(encoding="utf-8")).readline):
        if token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def wing(module: Path) -> str:
    """`workshop` or `service`."""
    return "workshop" if module.relative_to(PACKAGE).parts[0] in WORKSHOP else "service"


def lines_by_wing() -> dict[str, int]:
    """Code lines of `service` and `workshop`."""
    lines: Counter[str] = Counter()
    for module in modules():
        lines[wing(module)] += code_lines(module)
    return dict(sorted(lines.items()))


def bindings(module: Path) -> Iterator[str]:
    """Every name that the module gives to a variable or a parameter, but `self` and the like."""
    for node in ast.walk(tree(module)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) if name not in {"self", "cls", "_"}:
                yield name


def definitions(*kinds: type[ast.AST]) -> Iterator[str]:
    """The names of functions or classes, of the whole package."""
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, kinds) and isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name


def complexity(function: ast.AST) -> int:
    """McCabe's number with boolean operators: the ways through a function."""
    number = 1
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp):
            number += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            number += 1 + len(node.ifs)
        elif isinstance(node, _BRANCHES):
            number += 1
    return number


def share(part: int, whole: int) -> float:
    """A share in per cent, to two digits."""
    return round(100 * part / whole, 2)


def measures() -> dict[str, float]:
    """All measures by name; shares in per cent."""
    names = [name for module in modules() for name in bindings(module)]
    functions = list(definitions(ast.FunctionDef))
    complex_ = [
        node.name
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef) and complexity(node) > COMPLEX
    ]
    classes = Counter(definitions(ast.ClassDef))
    documented = [
        text
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node))
    ]
    folders = Counter(module.parent for module in modules())
    return {
        "code lines: service": lines_by_wing()["service"],
        "code lines: workshop": lines_by_wing()["workshop"],
        "empty names, % of bindings": share(sum(n.strip("_") in EMPTY_NAMES for n in names), len(names)),
        "functions called x_of or of_x": sum(bool(OF.fullmatch(name)) for name in functions),
        "class names used twice": sum(count > 1 for count in classes.values()),
        "vague docstrings, %": share(
            sum(bool(VAGUE_DOCSTRING.match(d)) for d in documented), len(documented)
        ),
        "complex functions, %": share(len(complex_), len(functions)),
        "files in the fullest folder": max(folders.values()),
    }


if __name__ == "__main__":
    for measure, number in measures().items():
        print(f"{number:10,g}  {measure}")
