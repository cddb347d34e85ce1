"""Makes docs/api.md from the docstrings of the public names: `python scripts/api.py`.

A docstring is a reference page: a first sentence, then `Args:` (of a class that is a value: `Attributes:`),
`Returns:`, `Yields:`, `Raises:` and an example. tests/test_api.py holds the page to the docstrings and the
docstrings to this form; pytest runs the examples.

Invariant: the source is parsed and nothing is imported, so that the page is the same on every machine.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "api.md"
WIDTH: Final = 100
SECTIONS: Final = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")


class Chapter(NamedTuple):
    """Public names about one thing, each `module.name` without the package's own name."""

    title: str
    text: str
    names: tuple[str, ...]


CHAPTERS: Final = (
    Chapter(
        "Entrances",
        "`import streamlearn` has these three; everything else is imported from its module.",
        ("engine.in_memory.run", "service.serve", "service.loading.load"),
    ),
    Chapter(
        "Configuration",
        "One frozen value; every key is described by `streamlearn config schema`.",
        ("config.load.load", "config.schema.Config"),
    ),
    Chapter(
        "Models",
        "Any river model can be served ([models](models.md)); these are the ones that streamlearn composes.",
        ("engine.presets.preset",),
    ),
    Chapter(
        "Errors",
        "Each is named by what happens next. Those with an exit code end a command with one message; the"
        " others are caught by the service, or by whoever steps a shard.",
        tuple(
            f"errors.{name}"
            for name in (
                "StreamlearnError",
                "ConfigError",
                "CheckFailed",
                "Unreachable",
                "Stop",
                "Full",
                "Fenced",
                "NotOwner",
                "Stopping",
                "Unknown",
                "Reopen",
                "Gone",
                "BadCheckpoint",
                "ModelRaised",
                "NeedSchema",
            )
        ),
    ),
    Chapter(
        "The nouns of the log",
        "Plain values, without a client, a clock or a file.",
        (
            *(f"core.records.{name}" for name in ("Record", "Output", "Range", "Skip")),
            *(f"core.journal.{name}" for name in ("Entry", "Era", "Checkpoint", "chain")),
        ),
    ),
    Chapter(
        "The shard",
        "The pure function: one record and a state in, facts and the next state out.",
        (
            "core.shard.shard.Shard",
            "core.shard.state.ShardSpec",
            "core.events.event.EventSpec",
            "core.labels.record.LabelSpec",
            "core.scores.scores.ScoresSpec",
            "core.shard.guard.GuardSpec",
            "core.events.event.Event",
            "core.events.event.Refusal",
            "engine.driver.ShardDriver",
            "core.shard.work.Failure",
        ),
    ),
    Chapter(
        "Facts",
        "Values that say what happened at a record; `Shard.step` returns them in order.",
        tuple(
            f"core.shard.facts.{name}"
            for name in (
                "Predicted",
                "Refused",
                "Skipped",
                "Commanded",
                "Labelled",
                "Learned",
                "Expired",
                "Frozen",
                "Reported",
                "Alerted",
                "published",
            )
        ),
    ),
    Chapter(
        "Ports",
        "An adapter implements these, and passes `tests/test_log_conformance.py`.",
        (
            "log.port.Reader",
            "log.port.Writer",
            "log.port.ShardLog",
            "log.port.Log",
            "log.port.Admin",
            "log.port.CheckpointStore",
            "env.Env",
            "env.RealEnv",
        ),
    ),
    Chapter(
        "Streams of the past",
        "Sources, sinks, and what is done with them ([offline](offline.md), [backtest](backtest.md)).",
        (
            "history.sources.open_source",
            "history.sources.Source",
            "history.sinks.open_sink",
            "history.sinks.Sink",
            "studies.train.train",
            "studies.score.score",
            "studies.backtest.backtest.Backtest",
            "studies.explain.explain.explain",
        ),
    ),
)

Definition = ast.ClassDef | ast.FunctionDef


@cache
def module(name: str) -> ast.Module:
    """The syntax tree of a module or package of streamlearn."""
    path = ROOT / "streamlearn" / Path(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def definition(name: str) -> Definition:
    """The class or function `module.name`. Raises `LookupError` when there is none."""
    where, _, last = name.rpartition(".")
    for node in module(where).body:
        if isinstance(node, Definition) and node.name == last:
            return node
    raise LookupError(f"scripts/api.py: streamlearn/{where.replace('.', '/')} defines no {last}")


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """The public methods and properties of a class, in the order in which they stand."""
    return [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]


def fields(node: ast.ClassDef) -> dict[str, tuple[str, str]]:
    """The declaration of each public field of a class, and the docstring that stands under it, if any."""
    found: dict[str, tuple[str, str]] = {}
    for one, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            if one.target.id.startswith("_") or ast.unparse(one.annotation).startswith("ClassVar"):
                continue
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            found[one.target.id] = ast.unparse(one).replace("'", '"'), text
    return found


def parameters(arguments: ast.arguments) -> Iterator[str]:
    """Each parameter of a function as it is written, `self` left out."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(plain) - len(arguments.defaults)), *arguments.defaults]
    star = [(None, None)] if arguments.kwonlyargs else []
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in [*zip(plain, defaults, strict=True), *star, *keywords]:
        if argument is None:
            yield "*"
        elif argument.arg != "self":
            kind = ": " + ast.unparse(argument.annotation).strip("'") if argument.annotation else ""
            yield argument.arg + kind + (f" = {ast.unparse(default)}".replace("'", '"') if default else "")


def signature(node: Definition) -> str:
    """The call of a function, or of a class with an `__init__`; the bare name of another class."""
    call: Definition = node
    if isinstance(node, ast.ClassDef):
        call = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), node)
    if isinstance(call, ast.ClassDef):
        return node.name
    returns = f" -> {ast.unparse(call.returns)}" if call.returns and call is node else ""
    line = f"{node.name}({', '.join(parameters(call.args))}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join((f"{node.name}(", *(f"    {one}," for one in parameters(call.args)), f"){returns}"))


def markdown(docstring: str, declared: dict[str, tuple[str, str]]) -> Iterator[str]:
    """The lines of a docstring as Markdown: sections are lists, examples are blocks."""
    section = ""
    in_example = False
    for line in docstring.splitlines():
        title = line.removesuffix(":")
        if in_example and not line.strip():
            yield "```"
            in_example = False
        if line.endswith(":") and title in SECTIONS:
            section = title
            if title != "Example":
                yield from (f"**{title}**", "")
            continue
        if line.strip().startswith(">>> ") and not in_example:
            yield "```"
            in_example = True
        if in_example:
            yield line.removeprefix("    ") if section else line
        else:
            yield item(line, section, declared) if section and line.strip() else line
    if in_example:
        yield "```"


def item(line: str, section: str, declared: dict[str, tuple[str, str]]) -> str:
    """A line of a section as an item of a list, or as the continuation of one."""
    text = line.removeprefix("    ")
    named = re.match(r"([\w., *`]+): (.*)", text)
    if text.startswith(" "):
        return f"  {text.strip()}"
    if named is None or section in ("Returns", "Yields"):
        return text
    words = [word.strip(" `") for word in named[1].split(",")]
    return f"- {', '.join(f'`{declared.get(word, (word,))[0]}`' for word in words)}: {named[2]}"


def entry(name: str) -> Iterator[str]:
    """The part of the page about one name."""
    node = definition(name)
    where = name.rpartition(".")[0]
    origin = "streamlearn" if name in CHAPTERS[0].names else f"streamlearn.{where}"
    call = signature(node)
    lines = [f"from {origin} import {node.name}", *([call] if call != node.name else [])]
    yield from (f"### {node.name}", "", "```", *lines, "```", "")
    declared = fields(node) if isinstance(node, ast.ClassDef) else {}
    yield from markdown(ast.get_docstring(node) or "", declared)
    yield ""
    described = [text for text in declared.values() if text[1]]
    if described:
        yield from ("**Fields**", "", *(f"- `{one}`: {text}" for one, text in described), "")
    if isinstance(node, ast.ClassDef):
        for method in methods(node):
            is_property = any(ast.unparse(one) == "property" for one in method.decorator_list)
            call = method.name if is_property else signature(method)
            yield from (f"#### {node.name}.{method.name}", "", "```", call, "```", "")
            yield from markdown(ast.get_docstring(method) or "", {})
            yield ""


def page() -> str:
    """All of docs/api.md."""
    lines = [
        "# Public names",
        "",
        "Made by `python scripts/api.py` from docstrings: change those. The examples are tests. Names that",
        "are not here, and those that begin with an underscore, may change without notice.",
        "",
    ]
    for chapter in CHAPTERS:
        lines += [f"## {chapter.title}", "", chapter.text, ""]
        for name in chapter.names:
            lines += entry(name)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
