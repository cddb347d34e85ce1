"""`streamlearn checkpoints`: which states are saved, what one holds, whether all are whole, and their key."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli import common, options
from streamlearn.cli.options import ServiceOptions, register
from streamlearn.errors import BadCheckpoint, CheckFailed, ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.core.journal import Checkpoint
    from streamlearn.engine.model import ModelTemplate
    from streamlearn.log.port import CheckpointStore

KEY_BYTES = 32
_UNNAMED = "not named by the journal: no start takes it"

app = typer.Typer(help="List, inspect and verify saved states.", no_args_is_help=True)


@register(app, "list")
def list_(
    *,
    as_json: options.AsJson = False,
    service: ServiceOptions,
) -> None:
    """The checkpoints, oldest first: where each stands, and its size."""
    for row in _summaries(service.settings()):
        if as_json:
            common.print_json(row)
        elif "bad" in row:
            print(f"{row['name']}  BAD: {row['bad']}")
        else:
            size = f"{row['bytes']} bytes" + ("" if row["named"] else f"  ({_UNNAMED})")
            print(f"{row['name']}  era {row['era']}  learned {row['learned']}  {size}")


@register(app)
def inspect(
    *,
    checkpoint: Annotated[str, typer.Argument(metavar="NAME", help="A name that `list` prints.")],
    service: ServiceOptions,
) -> None:
    """One checkpoint as JSON: entry, digest, era, versions, positions, sections, and the features' types."""
    import msgspec

    settings = service.settings()
    with common.open_store(settings) as store:
        if checkpoint not in (names := store.names()):
            raise ConfigError(
                f"there is no checkpoint {checkpoint!r}; there are: {', '.join(names) or 'none yet'}"
            )
        header, rows = _opened(settings, store, checkpoint)
    contents = {**msgspec.to_builtins(header), "types": rows}
    print(msgspec.json.format(msgspec.json.encode(contents), indent=2).decode())


@register(app)
def verify(
    *,
    service: ServiceOptions,
) -> None:
    """Read every checkpoint as a start would, its model too; exit 3 when one must not be loaded."""
    summaries = _summaries(service.settings(), whole=True)
    bad = [summary for summary in summaries if "bad" in summary and summary["named"]]
    for summary in summaries:
        verdict = f"BAD: {summary['bad']}" if "bad" in summary else "ok"
        print(f"{summary['name']}  {verdict if summary['named'] else _UNNAMED}")
    if bad:
        raise CheckFailed(
            f"{len(bad)} of {len(summaries)} checkpoints must not be loaded; a start takes the one before"
        )
    print(f"{len(summaries)} checkpoints, all whole")


@register(app)
def key(
    *,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="A new file for it, yours alone."),
    ] = None,
) -> None:
    """Make a key that signs checkpoints: without one the seal tells accidents, and no attacker."""
    new_key = common.ENV.token(KEY_BYTES)
    if out is None:
        print(new_key)
        key_file: str | Path = "/run/secrets/FILE"
    else:
        key_file = out.absolute()
        _write_secret(key_file, new_key)
    print(
        f'[checkpoint]\nkey = "${{file:{key_file}}}"',
        file=sys.stderr if out is None else sys.stdout,
    )


def _write_secret(file: Path, text: str) -> None:
    """Write a new file that only this user may read. Raises `ConfigError` when there is one."""
    from streamlearn.history.whole_file import whole_file

    if file.is_file():
        raise ConfigError(f"{file} exists, and what it signed needs it: choose a new file")
    with whole_file(file, new=True, mode=0o600) as opened:
        opened.write(f"{text}\n".encode())


def _opened(
    settings: "Config", store: "CheckpointStore", checkpoint: str
) -> tuple[Any, list[dict[str, Any]]]:
    """The header of a checkpoint, and the guard's table in it. Raises `CheckFailed`."""
    from streamlearn.core.shard.guard import table
    from streamlearn.core.shard.snapshot import load_memory, unseal

    try:
        header, sections = unseal(store.read(checkpoint), settings.checkpoint.key.encode())
        event: Any = header.under.config.get("event", {})
        return header, table(load_memory(sections).types, event.get("types", {}))
    except BadCheckpoint as reason:
        raise CheckFailed(f"checkpoint {checkpoint} must not be loaded: {reason}") from reason


def learned_types(settings: "Config") -> tuple[str, list[dict[str, Any]]]:
    """The newest checkpoint's name, and what the guard had learned there."""
    with common.open_store(settings) as store:
        names = [*_named(settings)] or store.names()
        if not names:
            raise ConfigError(
                f"there is no checkpoint of {settings.app.name} yet: start it, or name another app with -n"
            )
        return names[-1], _opened(settings, store, names[-1])[1]


def _summaries(settings: "Config", whole: bool = False) -> list[dict[str, Any]]:
    """Rows of `list`, one a checkpoint. `whole`: a state that cannot be restored is bad, too."""
    from streamlearn.core.shard.snapshot import open_header
    from streamlearn.engine.checkpoints import named_bytes

    template = _model(settings) if whole else None
    named = _named(settings)
    summaries: list[dict[str, Any]] = []
    with common.open_store(settings) as store:
        for name in sorted({*store.names(), *named}):
            try:
                data = named_bytes(store, named[name]) if name in named else store.read(name)
                header = open_header(data, settings.checkpoint.key.encode())
                if template is not None:
                    _restore(template, data, settings.checkpoint.key.encode())
            except BadCheckpoint as reason:
                summaries.append({"name": name, "bad": str(reason), "named": name in named or not named})
            else:
                summaries.append(
                    {"name": name, "seq": header.seq, "era": header.era, "learned": header.learned,
                     "bytes": len(data), "digest": header.digest, "named": name in named or not named}
                )  # fmt: skip
    return summaries


def _named(settings: "Config") -> "dict[str, Checkpoint]":
    """The checkpoints that the journal names, oldest first; none where there is no journal to ask."""
    from streamlearn.core.records import SHARD
    from streamlearn.engine.journal_end import named_checkpoints

    if settings.log.backend == "embedded" and not Path(settings.log.path).is_file():
        return {}
    with common.open_admin(settings) as admin:
        return {each.name: each for each in named_checkpoints(admin, (settings.topics.journal, SHARD))}


def _model(settings: "Config") -> "ModelTemplate | None":
    """The configured model; None, and a note, where it cannot be made, as on a host without its module."""
    from streamlearn.engine.model import configured_model

    sys.path.insert(0, str(Path.cwd()))
    try:
        return configured_model(settings)
    except ConfigError as error:
        common.note(f"The models in them are not opened, only seals and hashes checked: {error}")
        return None


def _restore(template: "ModelTemplate", data: bytes, key: bytes) -> None:
    """Make the state in a checkpoint, and forget it. A model of another maker than `fresh` stays closed: a
    start would not open it either. Raises `BadCheckpoint`.
    """
    from streamlearn.core.shard.snapshot import load_memory, unseal
    from streamlearn.engine.era import restored_state, stated_spec

    header, sections = unseal(data, key)
    if stated_spec(header.under).model_name == template.name:
        restored_state(header.under, sections, template.trusted)
    else:
        load_memory(sections)
