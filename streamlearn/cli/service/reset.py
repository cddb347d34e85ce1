"""`streamlearn reset`: a new journal and new checkpoints for an app, from a place that a person chooses."""

import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli import common, options
from streamlearn.cli.options import InputOptions
from streamlearn.core.records import SHARD
from streamlearn.errors import ConfigError, Fenced, Stop, Unreachable

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.core.shard.snapshot import Header
    from streamlearn.log.port import Admin


def reset(
    *,
    start: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="predictions (where they end), earliest, latest, a time, -1h, or events-0@600.",
        ),
    ] = "predictions",
    yes: options.Yes = False,
    service: InputOptions,
) -> None:
    """Begin a new journal for an app whose old one cannot be continued; the old one stays as it is.

    Example: streamlearn reset --start predictions
    """
    from streamlearn.config.load import load
    from streamlearn.studies import new_journal

    settings = service.settings()
    refuse_while_served(settings)
    with common.open_admin(settings) as admin:
        life = new_journal.old_life(admin, settings.topics.journal, _newest(settings), common.note)
        journal, checkpoints = new_journal.free_names(admin, settings)
        where, replaced = start, list[str]()
        if start == "predictions":
            positions, replaced = new_journal.after_predictions(admin, settings, life, common.note)
            where = new_journal.start_text(positions) or "earliest"
            for topic in replaced:
                print(f"{topic} was deleted and made again: it is read from its first record on")
        lines = {"journal": journal, "checkpoints": checkpoints, "start": where}
        changed = {f"topics.{key}": value for key, value in lines.items()}
        load(service.file, {**service.flags(), **changed})  # are they right?
        new_journal.check_places(admin, settings, where)
        print(f"old  journal {settings.topics.journal}: {new_journal.describe_end(life)}")
        print(f"     checkpoints {settings.topics.checkpoints}; both are left as they are")
        print(f"new  journal {journal}, checkpoints {checkpoints}; reading starts at: {where}")
        print("     the model begins untrained, or as [model] start_from (serve --from) says")
        confirm("Make the new topics, and change the configuration?", yes)
        _retire(settings)
        _make(admin, settings, lines)
    _tell(service.file, lines, again=start not in ("predictions", "latest") or bool(replaced))


def refuse_while_served(settings: "Config") -> None:
    """Raise `ConfigError` while a process serves this app: it would go on as if nothing had happened."""
    with common.open_log(settings) as log:
        running = log.members()
    if running:
        raise ConfigError(
            f"{running} process{'es serve' if running > 1 else ' serves'} {settings.app.name} now: stop "
            f"{'them' if running > 1 else 'it'} first, then say this again"
        )


def _newest(settings: "Config") -> "Header | None":
    """The newest checkpoint's header, of whatever journal, where there is a place of checkpoints."""
    from streamlearn.engine.checkpoints import newest_header

    with common.open_store(settings) as store:
        try:
            newest = newest_header(store, settings.checkpoint.key.encode(), None, SHARD)
        except (ConfigError, Unreachable) as error:
            common.note(f"the checkpoints cannot be read, and are left out: {error}")
            return None
    return newest if newest is not None and newest.app in ("", settings.app.name) else None


def _retire(settings: "Config") -> None:
    """Fence a process of the old journal that may only be paused, and let go of what is kept for it."""
    with common.open_log(settings) as log:
        try:
            log.retire(SHARD)
        except (ConfigError, Stop, Fenced) as error:  # the old journal may be what is broken
            common.note(f"the old journal could not be taken over first: {error}")


def confirm(question: str, yes: bool) -> None:
    """Go on only if a person says so. Raises `ConfigError` where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here: say --yes if this is what you want")
    typer.confirm(question, abort=True)


def _make(admin: "Admin", settings: "Config", lines: dict[str, str]) -> None:
    from streamlearn.log.internal_topics import wanted_topics

    names = settings.names()
    renamed = names._replace(
        roles={"journal": lines["journal"]}
        if settings.log.backend == "embedded"
        else {"journal": lines["journal"], "checkpoints": lines["checkpoints"]}
    )
    admin.create(wanted_topics(renamed, 1))


def _tell(config: Path | None, lines: dict[str, str], again: bool) -> None:
    """Put the lines into the configuration file, or say where they belong."""
    file = config or next((Path(name) for name in ("streamlearn.toml",) if Path(name).is_file()), None)
    if file is not None and _written(file, lines):
        print(f"{file}: [topics] now has journal, checkpoints and start as above. Start the service again.")
    else:
        print("Made. Put these lines into the configuration, then start the service again:")
        print("\n[topics]\n" + "\n".join(f'{key} = "{value}"' for key, value in lines.items()))
    if again:
        print("\nOffsets that are answered already need your word at the first start: serve --begin")


def _written(file: Path, lines: dict[str, str]) -> bool:
    """Change the file so that it says `lines`, and nothing else in it; False when that cannot be done."""
    from streamlearn.history.whole_file import whole_file

    before = file.read_text("utf-8")
    after = with_topics(before, lines)
    expected: dict[str, Any] = tomllib.loads(before)
    expected["topics"] = {**expected.get("topics", {}), **lines}
    try:
        if tomllib.loads(after) != expected:
            return False
        with whole_file(file) as whole:
            whole.write(after.encode())
    except (tomllib.TOMLDecodeError, Unreachable):
        return False
    return True


def with_topics(text: str, lines: dict[str, str]) -> str:
    """A TOML text whose table `[topics]` says `lines`.

    >>> with_topics('[topics]\\ninput = "a"\\n', {"journal": "j-2"})
    '[topics]\\njournal = "j-2"\\ninput = "a"\\n'
    """
    new_lines = "".join(f'{key} = "{value}"\n' for key, value in lines.items())
    table = re.search(r"^\[topics\][^\n]*\n", text, re.MULTILINE)
    if table is None:
        return f"{text.rstrip()}\n\n[topics]\n{new_lines}".lstrip()
    rest = text[table.end() :]
    next_table = re.search(r"^\[", rest, re.MULTILINE)
    section = rest[: next_table.start()] if next_table else rest
    keys = "|".join(lines)
    other_lines = re.sub(rf"^\s*({keys})\s*=[^\n]*\n?", "", section, flags=re.MULTILINE)
    return text[: table.end()] + new_lines + other_lines + rest[len(section) :]
