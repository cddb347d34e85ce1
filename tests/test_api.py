"""The page of public names is made from their docstrings, and these have the form of a reference page."""

import ast
import re
import sys

import pytest

from tests.markdown import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import api

NAMES = [name for chapter in api.CHAPTERS for name in chapter.names]

NO_EXAMPLE = {
    "log.port": "an adapter implements it: tests/test_log_conformance.py is the example",
    "env.Env": "RealEnv is one",
    "service.serve": "it serves until a signal: tests/test_service.py runs it",
    "studies": "the command of the same name, whose runs in docs/offline.md and docs/backtest.md are tests",
    "core.shard.shard.Shard": "ShardDriver, which alone steps one, has it",
    "core.shard.facts": "the example of ShardDriver shows some; they are made by a step alone",
    "history.sinks.Sink": "open_sink makes them",
    "errors": "most say all in their first sentence",
}
"""Names and modules whose members need no example, with the reason."""


def docstring(name: str) -> str:
    return ast.get_docstring(api.definition(name)) or ""


def described(text: str, section: str) -> set[str]:
    """The names that a section of a docstring describes."""
    found = re.search(rf"^{section}:\n((?:    .*\n|\n)*)", text + "\n", re.M)
    if found is None:
        return set()
    return {name for names in re.findall(r"^    ([\w, ]+): ", found[1], re.M) for name in names.split(", ")}


def test_the_page_is_made_from_the_docstrings() -> None:
    assert api.PAGE.read_text(encoding="utf-8") == api.page(), "run python scripts/api.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_first_sentence(name: str) -> None:
    assert re.match(r"[A-Z`].*?[.:](\s|$)", docstring(name), re.S)


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_is_described(name: str) -> None:
    node = api.definition(name)
    call: ast.stmt = node
    if isinstance(node, ast.ClassDef):
        call = next((one for one in node.body if getattr(one, "name", "") == "__init__"), node)
    if not isinstance(call, ast.FunctionDef) or name in (
        "studies.explain.explain.explain",
        "core.shard.shard.Shard",
    ):
        return  # the first takes all that its command has opened; the second is made by `load_state`
    wanted = {text.partition(":")[0] for text in api.parameters(call.args)} - {"*"}
    assert wanted - described(docstring(name), "Args") == set()


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(api.definition(name), ast.ClassDef)])
def test_each_field_of_a_value_is_described(name: str) -> None:
    node = api.definition(name)
    assert isinstance(node, ast.ClassDef)
    fields = {field for field, (_, text) in api.fields(node).items() if not text}
    assert fields - described(docstring(name), "Attributes") == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example(name: str) -> None:
    exempt = any(f"{name}.".startswith(f"{one}.") for one in NO_EXAMPLE)
    assert exempt or ">>> " in docstring(name)
