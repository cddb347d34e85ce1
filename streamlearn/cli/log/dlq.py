"""`streamlearn dlq`: what was refused and why, one dead letter in full, and sending them back after a fix."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common, options
from streamlearn.cli.options import From, ServiceOptions, To, register
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.log.port import Admin
    from streamlearn.studies.dead_letters import Letter, LetterFilter

app = typer.Typer(help="List, show and retry dead letters.", no_args_is_help=True)

Reason = Annotated[
    str,
    typer.Option("--reason", metavar="REASON", help="Only this, e.g. feature_type or decode.not_json."),
]
Stage = Annotated[
    str,
    typer.Option("--stage", metavar="STAGE", help="Only decode, guard, label, predict, learn or control."),
]
Feature = Annotated[str, typer.Option("--feature", metavar="NAME", help="Only those about this feature.")]


@register(app, "list")
def list_(
    *,
    reason: Reason = "",
    stage: Stage = "",
    feature: Feature = "",
    first: From = "beginning",
    upto: To = "end",
    as_json: options.AsJson = False,
    service: ServiceOptions,
) -> None:
    """Dead letters by what is wrong with them, commonest first, with the place of the first of each kind."""
    import msgspec

    from streamlearn.studies.dead_letters import LetterFilter, groups

    settings = service.settings()
    with common.open_admin(settings) as admin:
        letter_groups = groups(_letters(admin, settings, LetterFilter(reason, stage, feature), first, upto))
    for group in letter_groups:
        if as_json:
            common.print_json(msgspec.structs.asdict(group))
            continue
        about = f" feature {group.feature!r}" if group.feature else ""
        print(f"{group.count:>8}  {group.stage}.{group.reason}{about} from {group.topic}: {group.message}")
        print(f"{'':>8}  {_time(group.first_ms)} to {_time(group.last_ms)}; see `dlq show {group.example}`")
    common.note(f"{sum(group.count for group in letter_groups)} dead letters in {settings.topics.dlq}")


@register(app)
def show(
    *,
    place: Annotated[
        str, typer.Argument(metavar="PARTITION:OFFSET", help="A letter's place, as `dlq list` prints it.")
    ],
    as_json: options.AsJson = False,
    service: ServiceOptions,
) -> None:
    """One dead letter: why, from where, its headers, key and value."""
    from streamlearn.studies.dead_letters import described

    settings = service.settings()
    with common.open_admin(settings) as admin:
        shown = described(_letter_at(admin, settings.topics.dlq, place))
    if as_json:
        common.print_json(shown)
        return
    source = shown["source"]
    feature = f" feature {shown['feature']!r}" if shown["feature"] else ""
    print(f"why      {shown['stage']}.{shown['reason']}{feature}: {shown['message']}")
    print(f"from     {source['topic']} partition {source['partition']} offset {source['offset']}")
    print(f"when     {_time(shown['arrived_ms'])}, retried {shown['retries']} times before")
    for header in shown["headers"]:
        print(f"header   {header['name']}: {header.get('value', header.get('value_base64'))}")
    for member in ("key", "key_base64", "value", "value_base64"):
        if member in shown:
            print(f"{member:<8} {shown[member]}")


@register(app)
def retry(
    *,
    reason: Reason = "",
    stage: Stage = "",
    feature: Feature = "",
    first: From = "beginning",
    upto: To = "end",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    as_json: options.AsJson = False,
    service: ServiceOptions,
) -> None:
    """Send dead letters back to where they came from, bytes unchanged, marked `streamlearn.retries`.

    Each letter is sent once, however often this is called; a record at most [dlq] retries_max times.
    """
    from streamlearn.studies.dead_letters import NOT_RETRIED, LetterFilter, plan_retry

    settings = service.settings()
    retries_max = settings.dlq.retries_max
    with common.open_admin(settings) as admin:
        letters = list(_letters(admin, settings, LetterFilter(reason, stage, feature), first, upto))
        plan = plan_retry(admin, letters, retries_max)
        for topic, records in plan.records.items() if not dry_run else ():
            admin.append(topic, records)
    counts = {topic: len(records) for topic, records in plan.records.items()}
    if as_json:
        common.print_json({"sent": counts, **plan.left, "dry_run": dry_run})
        return
    would_be = "would be " if dry_run else ""
    for topic, count in counts.items():
        print(f"{count} {would_be}sent back to {topic}")
    if not counts:
        print(f"nothing {would_be}sent")
    for kind, count in plan.left.items():
        if count:
            print(f"{count} not sent: they {NOT_RETRIED[kind].format(retries_max=retries_max)}")


def _letters(
    admin: "Admin", settings: "Config", letter_filter: "LetterFilter", first: str, upto: str
) -> "Iterator[Letter]":
    from streamlearn.history import topic_reader
    from streamlearn.studies.dead_letters import parse_letter

    topic = settings.topics.dlq
    ends = [topic_reader.resolve_offsets(admin, topic, where) for where in (first, upto)]
    for record in topic_reader.between(admin, topic, *ends):
        letter = parse_letter(record)
        if letter is not None and letter_filter.takes(letter):
            yield letter


def _letter_at(admin: "Admin", topic: str, place: str) -> "Letter":
    from streamlearn.core.records import Range
    from streamlearn.history import topic_reader
    from streamlearn.studies.dead_letters import parse_letter

    info = topic_reader.topic_info(admin, topic)
    match = re.fullmatch(r"(\d+):(\d+)", place)
    if not match or int(match[1]) >= info.partitions:
        raise ConfigError(f"{place} is no place in {topic}: write PARTITION:OFFSET, as `dlq list` prints it")
    partition, offset = int(match[1]), int(match[2])
    start, end = info.start[partition], info.end[partition]
    run = Range(topic, partition, offset, min(offset + 1, end))
    record = next(topic_reader.read_range(admin, run), None) if offset >= start else None
    letter = parse_letter(record) if record is not None else None
    if letter is None:
        raise ConfigError(
            f"{topic} has no dead letter at {place}; offsets {start} to {end - 1} are retained there"
        )
    return letter


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
