"""Fenced blocks of the Markdown files: found, run as on a terminal, compared, and written anew.

A `console` block holds commands (`$ ...`, carried on after a backslash) and what each prints, standard error
included. What is shown equals what was printed, but for

- what no two runs share: times (RFC 3339, `"ts"` in ms), durations (`1.7 s`, `243 us`), rates (`9 a second`);
- the number of spaces and the length of rules, which follow from these;
- `...`: any text inside a line, any lines where it stands alone;
- numbers that agree to nine digits.

The blocks of a file run one after the other in one copy of the folder that `<!-- run in: FOLDER -->` above
the first names; Python blocks between them run there too. A block under `<!-- not run: REASON -->` is only
parsed. With STREAMLEARN_UPDATE_DOCS=1 in the environment what differs is written into the file.
"""

import math
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
UPDATE = "STREAMLEARN_UPDATE_DOCS"
_FENCE = re.compile(r"^(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r'"ts":\d{13}\b'), '"ts":TIME'),
    (re.compile(r"\b[\d.,]*\d (?:ns|us|µs|ms|s|min)\b"), "DURATION"),
    (re.compile(r"\b[\d.,]*\d a second\b"), "RATE"),
    (re.compile(r"\b(?:seconds|per_s) [\d.]+"), "RATE"),
    (re.compile(r"([─━-])\1{3,}"), r"\1"),
    (re.compile(r"[ \t]+"), " "),
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
_MARK = "\x1e"


class Block(NamedTuple):
    """A fenced block: its language, text, the comment above it, and where its text stands in the file."""

    language: str
    text: str
    note: str
    start: int
    end: int


class Step(NamedTuple):
    """A command, and what it is shown to print."""

    command: str
    shown: str


def blocks(file: Path) -> list[Block]:
    """The fenced blocks of a file, in order."""
    return [
        Block(found["language"], found["text"], found["note"] or "", found.start("text"), found.end("text"))
        for found in _FENCE.finditer(file.read_text("utf-8"))
    ]


def steps(text: str) -> list[Step]:
    """The commands of a `console` block."""
    found: list[Step] = []
    carried = False
    for line in text.splitlines(keepends=True):
        if carried:
            found[-1] = Step(found[-1].command + line, "")
        elif line.startswith("$ "):
            found.append(Step(line[2:], ""))
        else:
            assert found, "a console block begins with a command"
            found[-1] = found[-1]._replace(shown=found[-1].shown + line)
        carried = (carried or line.startswith("$ ")) and line.endswith("\\\n")
    return found


def run(commands: list[str], folder: Path, timeout_s: float = 240) -> list[str]:
    """What each command prints on both streams, typed one after another; nothing of them is left running."""
    foreign = ("STREAMLEARN_", "KAFKA_BOOTSTRAP_SERVERS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = "exec 2>&1\n" + "".join(f"{command}\nprintf '{_MARK}'\n" for command in commands)
    script += "kill $(jobs -p) 2>/dev/null; wait\n"
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = shell.communicate(timeout=timeout_s)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    return out.split(_MARK)[: len(commands)]


def alike(shown: str, printed: str) -> bool:
    """Whether a text shown is the one printed, by the rules above."""
    return _alike(_lines(shown), _lines(printed))


def _lines(text: str) -> list[str]:
    for pattern, sign in _VOLATILE:
        text = pattern.sub(sign, text)
    return [line.strip() for line in text.rstrip().splitlines()]


def _alike(shown: list[str], printed: list[str]) -> bool:
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(_alike(shown[1:], printed[at:]) for at in range(len(printed) + 1))
    return bool(printed) and _same(shown[0], printed[0]) and _alike(shown[1:], printed[1:])


def _same(shown: str, printed: str) -> bool:
    if re.fullmatch(".*".join(map(re.escape, shown.split("..."))), printed):
        return True
    if _NUMBER.sub("#", shown) != _NUMBER.sub("#", printed):
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return all(math.isclose(_float(one), _float(other), rel_tol=1e-9) for one, other in pairs)


def _float(text: str) -> float:
    return float(text.replace(",", ""))


def replace(file: Path, block: Block, text: str) -> None:
    """Write another text into a block that was read from the file as it is now."""
    whole = file.read_text("utf-8")
    file.write_text(whole[: block.start] + text + whole[block.end :], "utf-8")


def updating() -> bool:
    """Whether what differs is to be written into the files."""
    return bool(os.environ.get(UPDATE))
