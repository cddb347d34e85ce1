"""A proposal as the TOML file that `serve -c` takes, and what to type next. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any

from streamlearn.studies.look.propose import Proposal

_WIDTH = 100


def toml(proposal: Proposal, source: str, topic: str, log: Mapping[str, Any]) -> str:
    """The file. `log`: the keys of `[log]`; `topic`: the input; `source`: what was looked at."""
    name = app_name(source)
    rows = f"{proposal.rows:,} {'rows' if proposal.shape == 'table' else 'records'}"
    lines = [
        f"# Proposed by `streamlearn look {source}` from {rows};"
        " check it: what the sample could not tell is marked."
    ]
    lines += [f"# Note: {_line(note)}." for note in proposal.notes]
    if proposal.candidates:
        names = _line(", ".join(proposal.candidates))
        lines.append(f"# Perhaps the label, if it is what you want to predict: {names}.")
    lines += _next(proposal, source, topic)
    lines += ["", "[app]", f"name = {value(name)}"]
    lines += ["", "[log]", *(f"{key} = {value(setting)}" for key, setting in log.items())]
    lines += ["", "[topics]", f"input = {value(topic)}"]
    if proposal.event:
        lines += ["", "[event]"]
        for key, setting in proposal.event.items():
            lines += _setting(key, setting, proposal.why.get(f"event.{key}", ""))
    lines += ["", "[model]", *_setting("use", proposal.model, proposal.why["model.use"])]
    return "\n".join(lines) + "\n"


def app_name(source: str) -> str:
    """A service's name, from a file's or a topic's."""
    last = re.split(r"[/:]", source.partition("@")[0])[-1].lower()
    bare = re.sub(
        r"(\.(csv|tsv|jsonl|json|ndjson|parquet|pq|arrow|feather|ipc))?(\.(gz|zst|bz2|xz|zip))?$", "", last
    )
    return re.sub(r"[^a-z0-9._-]+", "-", bare).strip("-.")[:40] or "look"


def value(setting: Any) -> str:
    """A value as TOML."""
    if isinstance(setting, Mapping):
        return "{ " + ", ".join(f"{value(name)} = {value(inner)}" for name, inner in setting.items()) + " }"
    if isinstance(setting, list | tuple):
        return "[" + ", ".join(map(value, setting)) + "]"
    # JSON's texts are TOML's, but for surrogates, which ensure_ascii would make, and the sign of DEL.
    return json.dumps(setting, ensure_ascii=False).replace("\x7f", "\\u007f")


def _setting(key: str, setting: Any, why: str) -> list[str]:
    line = f"{key} = {value(setting)}"
    if not why:
        return [line]
    if len(line) + len(why) > _WIDTH:
        return [f"# {_line(why)}", line]
    return [f"{line}  # {_line(why)}"]


def _line(text: str) -> str:
    """A text that fits in a comment, whatever names the data have."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _next(proposal: Proposal, source: str, topic: str) -> list[str]:
    import shlex

    if source == topic:
        return []
    lines = ["#", "# streamlearn topics ensure", "# streamlearn serve"]
    options = "".join(f" {option}" for option in proposal.replay)
    lines.append(_line(f"# streamlearn replay {shlex.quote(source)} -t {topic}{options}"))
    reasons = [
        (key.removeprefix("replay."), why) for key, why in proposal.why.items() if key[:7] == "replay."
    ]
    return lines + [f"#   {role}: {_line(why)}" for role, why in reasons]
