"""What the benchmarks print and write: tables in Markdown, a picture, and the page docs/performance.md.

A benchmark puts its table between two marks of the page, `<!-- race -->` and `<!-- /race -->`, so that each
can be repeated alone. The data stand beside it in `docs/performance.json`, from which the picture is drawn.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench_models import MODELS
from bench_runners import RUNNERS

PAGE = "performance.md"
DATA = "performance.json"
PICTURE = "performance.svg"
PACKAGES = ("river", "orjson", "kafka-python", "numpy", "msgspec")


def machine() -> dict[str, str]:
    """The machine and the versions that the figures belong to."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    commit = _git("log", "-1", "--format=%h", "--", "streamlearn")
    if _git("status", "--porcelain", "--", "streamlearn"):
        commit += " with changes"
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **found,
        "commit": commit or "unknown",
        "load": f"{os.getloadavg()[2]:.1f}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _git(*words: str) -> str:
    command = ["git", *words]
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or "unknown"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def race_table(result: dict[str, Any]) -> str:
    """One table for each model, and what was left out."""
    pieces = []
    for model, found in result["models"].items():
        rows = [
            [
                RUNNERS[name].title,
                f"{one['wall_us']:.1f}",
                f"{one['wall_ratio']:.2f}",
                f"{one['cpu_us']:.1f}",
                f"{one['cpu_ratio']:.2f}",
                f"{one['over_model_us']:.1f}",
                f"{one['events']:,.0f}",
            ]
            for name, one in found["runners"].items()
        ]
        head = ["", "wall us", "x bare", "CPU us", "x bare", "CPU over the model code us", "events"]
        pieces += [f"**{model}**", table(head, rows), *_left_out(found), _stated(found)]
    peers = "; ".join(f"{peer}: {words}" for peer, words in result["peers"].items())
    return "\n\n".join([*pieces, f"Peers: {peers}."])


def _left_out(found: dict[str, Any]) -> list[str]:
    return [f"Left out: {RUNNERS[name].title}: {why}." for name, why in found["left_out"].items()]


def _stated(result: dict[str, Any]) -> str:
    """A sentence about machine, versions and rounds."""
    on = result["machine"]
    packages = ", ".join(f"{package} {on[package]}" for package in PACKAGES)
    return (
        f"{on['cpu']}, {on['cores']} cores, {on['system']}; Python {on['python']}, {packages}; commit "
        f"{on['commit']}, {on['date']}; the quietest of {result['rounds']} rounds, "
        f"at a load of {on['load']}."
    )


def stages_table(result: dict[str, Any]) -> str:
    """Stages down, models across; then calls."""
    names = list(result["runs"])
    stages = list(result["runs"][names[0]]["stages"])
    rows = [[stage, *[f"{result['runs'][name]['stages'][stage]:.1f}" for name in names]] for stage in stages]
    rows.append(["**sum**", *[f"**{result['runs'][name]['cpu_us']:.1f}**" for name in names]])
    calls = result["calls"]
    words = ", ".join(f"{model} {found['per_event']:.1f}" for model, found in calls.items())
    return "\n\n".join(
        (
            table(["CPU us per event", *names], rows),
            f"Python calls per event in streamlearn's own code, in the core: {words}.",
            _stated(result),
        )
    )


def latency_table(result: dict[str, Any]) -> str:
    """A row for each runner."""
    rows = [
        [RUNNERS[name].title, f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}", f"{one['events']:,}"]
        for name, one in result["runners"].items()
    ]
    head = [f"{result['rate']:g} events/s", "p50 ms", "p99 ms", "events"]
    return "\n\n".join((table(head, rows), *_left_out(result), _stated(result)))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "race": race_table,
    "stages": stages_table,
    "latency": latency_table,
}


def deliver(kind: str, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Print a result as JSON and as a table, and write what was asked for."""
    print(json.dumps({kind: result}, indent=2))
    print(f"\n{TABLES[kind](result)}")
    if args.json:
        args.json.write_text(json.dumps({kind: result}, indent=2) + "\n")
    if args.write:
        write(kind, result, args.write)


def write(kind: str, result: dict[str, Any], docs: Path) -> None:
    """Put a table into the page and its data beside it, and draw the picture anew. A race of some models
    leaves those of the others there.
    """
    data_file, page = docs / DATA, docs / PAGE
    data = json.loads(data_file.read_text()) if data_file.exists() else {}
    if kind == "race":
        raced = data.get(kind, {}).get("models", {}) | result["models"]
        result = result | {"models": {name: raced[name] for name in MODELS if name in raced}}
    text = TABLES[kind](result)
    data[kind] = result
    data_file.write_text(json.dumps(data, indent=1) + "\n")
    first, last = f"<!-- {kind} -->", f"<!-- /{kind} -->"
    before, mark, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not mark or not end:
        raise SystemExit(f"bench: {page} has no {first} and {last} to write between")
    page.write_text(f"{before}{first}\n{text}\n{last}{after}")
    if kind == "race":
        (docs / PICTURE).write_text(picture(result))


BAR, GAP, LEFT, WIDTH, MOST = 16, 6, 250, 900, 12
_COLOURS = {"bare": "#8a8a8a", "model": "#c4c4c4", "ours": "#2f6fb2", "peer": "#d08a3c"}


def picture(result: dict[str, Any]) -> str:
    """Bars of wall time (pale) and of CPU time beside bare, a chart for each model."""
    y = 24
    body: list[str] = []
    for model, found in result["models"].items():
        runners = {name: one for name, one in found["runners"].items() if name != "model"}
        largest = max(max(one["wall_ratio"], one["cpu_ratio"]) for one in runners.values())
        scale = (WIDTH - LEFT - 270) / min(largest, MOST)
        body.append(f'<text x="8" y="{y}" font-weight="bold">{escape(model)}</text>')
        y += 10
        for name, one in runners.items():
            body += _bar(name, one, y, scale)
            y += BAR + GAP
        x = LEFT + scale
        height = len(runners) * (BAR + GAP)
        body.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - height}" y2="{y - GAP}" stroke="#444"'
            ' stroke-dasharray="3 3"/>'
        )
        y += 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
        ' font-family="sans-serif" font-size="12">\n<title>Time per event beside a bare river loop</title>\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
    )
    return "\n".join((head, *body, "</svg>\n"))


def _bar(name: str, one: dict[str, float], y: int, scale: float) -> list[str]:
    kind = name if name in _COLOURS else "peer"
    if name in ("core", "embedded", "kafka-python", "confluent"):
        kind = "ours"
    middle = y + BAR - 4
    wall, cpu = (min(one[ratio], MOST) * scale for ratio in ("wall_ratio", "cpu_ratio"))
    words = (
        f"{one['wall_us']:.0f} us, {one['wall_ratio']:.2f} x bare; CPU {one['cpu_us']:.0f} us, "
        f"{one['cpu_ratio']:.2f} x"
    )
    half = f'height="{BAR // 2}" fill="{_COLOURS[kind]}"'
    return [
        f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(RUNNERS[name].title)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{wall:.1f}" {half} fill-opacity="0.5"/>',
        f'<rect x="{LEFT}" y="{y + BAR // 2}" width="{cpu:.1f}" {half}/>',
        f'<text x="{LEFT + max(wall, cpu) + 6:.1f}" y="{middle}">{words}</text>',
    ]
