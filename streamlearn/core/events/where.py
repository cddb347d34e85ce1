"""The expressions of `[event] where`: a small language of its own, so that nothing is ever evaluated.

    expression = term {"or" term}        term = factor {"and" factor}
    factor     = "not" factor | "(" expression ")" | operand [operator operand | ["not"] "in" list]
    operand    = path | "`any path`" | 'text' | "text" | number | true | false | null
    operator   = == != < <= > >=         list = "[" literal {"," literal} "]"

A bare path is true where its value is true. A missing path is null. Values of different types are never
equal (numbers are one type) and never in order; so a missing path is unequal to every literal but null.
"""

import re
from collections.abc import Callable, Iterator
from operator import ge, gt, le, lt
from typing import Any, Final, NamedTuple

from streamlearn.core.events.paths import optional

Test = Callable[[dict[str, Any]], bool]
Operand = Callable[[dict[str, Any]], Any]

MAX_DEPTH: Final = 50
_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  | (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
  | (?P<quoted>`[^`]+`)
  | (?P<word>[^\W\d][\w@$-]*(?:\.[\w@$-]+)*)
  | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
  )""",
    re.VERBOSE,
)
_CONSTANTS: Final = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_WORDS: Final = frozenset(("and", "or", "not", "in"))


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def compile_where(text: str) -> Test:
    """Compile the test that keeps an object or not. Raises `ValueError` naming the place of a mistake.

    >>> compile_where("type == 'reading' and tags.site in ['a', 'b']")({"type": "reading"})
    False
    """
    parser = _Parser(text)
    test = parser.expression(0)
    parser.expect("end")
    return test


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0

    def _fail(self, problem: str, token: _Token) -> ValueError:
        return ValueError(f"{problem} at character {token.position + 1} of {self._text!r}")

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> str:
        """The token's text when it is one of `texts`, and the parser is past it; else ""."""
        token = self._token
        if token.kind in ("sign", "word") and token.text in texts:
            self._next += 1
            return token.text
        return ""

    def expect(self, text: str) -> None:
        """Pass over the sign or the end `text`, which must come now."""
        if text == "end" and self._token.kind == "end":
            return
        if not self._take(text):
            raise self._fail(f"{text} is expected", self._token)

    def expression(self, depth: int) -> Test:
        """Terms joined by `or`."""
        if depth > MAX_DEPTH:
            raise self._fail("this is nested too deeply", self._token)
        tests = [self._term(depth)]
        while self._take("or"):
            tests.append(self._term(depth))
        return tests[0] if len(tests) == 1 else lambda doc: any(test(doc) for test in tests)

    def _term(self, depth: int) -> Test:
        tests = [self._factor(depth)]
        while self._take("and"):
            tests.append(self._factor(depth))
        return tests[0] if len(tests) == 1 else lambda doc: all(test(doc) for test in tests)

    def _factor(self, depth: int) -> Test:
        if self._take("not"):
            if depth > MAX_DEPTH:
                raise self._fail("this is nested too deeply", self._token)
            test = self._factor(depth + 1)
            return lambda doc: not test(doc)
        if self._take("("):
            test = self.expression(depth + 1)
            self.expect(")")
            return test
        left = self._operand()
        if sign := self._take("==", "!="):
            return _equality(left, self._operand(), expected=sign == "==")
        if sign := self._take("<", "<=", ">", ">="):
            return _order(left, self._operand(), _ORDERS[sign])
        negated = bool(self._take("not"))
        if negated:
            self.expect("in")
        if negated or self._take("in"):
            return _membership(left, self._list(), expected=not negated)
        return lambda doc: left(doc) is True

    def _operand(self) -> Operand:
        token = self._token
        if token.kind == "quoted":
            self._next += 1
            return optional(token.text[1:-1])
        if token.kind == "word" and token.text not in _CONSTANTS:
            if token.text in _WORDS:
                raise self._fail(f"a path or a value is expected before {token.text}", token)
            self._next += 1
            if self._token.text == "(":
                raise self._fail("functions are not known here", token)
            return optional(token.text)
        value = self._literal()
        return lambda _doc: value

    def _literal(self) -> Any:
        token = self._token
        self._next += 1
        if token.kind == "text":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        if token.kind == "number":
            return float(token.text) if re.search("[.eE]", token.text) else int(token.text)
        if token.kind == "word" and token.text in _CONSTANTS:
            return _CONSTANTS[token.text]
        raise self._fail("a path or a value is expected", token)

    def _list(self) -> list[Any]:
        self.expect("[")
        values = [self._literal()]
        while self._take(","):
            values.append(self._literal())
        self.expect("]")
        return values


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match:
            position += len(text[position:]) - len(text[position:].lstrip())
            char, hints = text[position], {"=": "; equality is ==", "&": "; write and", "|": "; write or"}
            hint = {**hints, "!": "; write not"}.get(char, "")
            raise ValueError(f"{char!r} is not understood{hint}, at character {position + 1} of {text!r}")
        kind = str(match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind))
        position = match.end()
    yield _Token("end", "", end)


def _kind(value: Any) -> type:
    """The type as this language has it: int and float are one, and true is no number."""
    return float if type(value) is int else type(value)


def _equality(left: Operand, right: Operand, expected: bool) -> Test:
    def test(doc: dict[str, Any]) -> bool:
        a, b = left(doc), right(doc)
        return (_kind(a) is _kind(b) and bool(a == b)) is expected

    return test


def _order(left: Operand, right: Operand, holds: Callable[[Any, Any], bool]) -> Test:
    def test(doc: dict[str, Any]) -> bool:
        a, b = left(doc), right(doc)
        return _kind(a) is _kind(b) and _kind(a) in (float, str) and holds(a, b)

    return test


def _membership(left: Operand, values: list[Any], expected: bool) -> Test:
    literals = {(_kind(value), value) for value in values}

    def test(doc: dict[str, Any]) -> bool:
        value = left(doc)
        is_member = type(value) not in (dict, list) and (_kind(value), value) in literals
        return is_member is expected

    return test
