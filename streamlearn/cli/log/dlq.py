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
    from streamlearn.log.port import Admin, Row
    from streamlearn.studies.dead_letters import Letter, LetterFilter, Plan

BATCH = 1000

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
    with common.admin_of(settings) as admin:
        found = groups(_letters(admin, settings, LetterFilter(reason, stage, feature), first, upto))
    for group in found:
        if as_json:
            common.print_json(msgspec.structs.asdict(group))
            continue
        about = f" feature {group.feature!r}" if group.feature else ""
        print(f"{group.count:>8}  {group.stage}.{group.reason}{about} from {group.topic}: {group.message}")
        print(f"{'':>8}  {_time(group.first_ms)} to {_time(group.last_ms)}; see `dlq show {group.example}`")
    common.note(f"{sum(group.count for group in found)} dead letters in {settings.topics.dlq}")


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
    with common.admin_of(settings) as admin:
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
    for part in ("key", "key_base64", "value", "value_base64"):
        if part in shown:
            print(f"{part:<8} {shown[part]}")


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
    from streamlearn.studies.dead_letters import LetterFilter, Plan, sent_before

    settings = service.settings()
    wanted = LetterFilter(reason, stage, feature)
    with common.admin_of(settings) as admin:
        letters = list(_letters(admin, settings, wanted, first, upto))
        existing = admin.topics({letter.topic for letter in letters})
        plan = Plan(
            settings.dlq.retries_max,
            sent_before(admin, letters),
            lambda topic: existing[topic].partitions if topic in existing else 0,
        )
        sent = _send(admin, plan.rows(letters), dry_run)
    _report(sent, plan, settings, dry_run, as_json)


def _send(admin: "Admin", rows: "Iterator[tuple[str, Row]]", dry_run: bool) -> dict[str, int]:
    """Append in batches by topic; how many to each."""
    sent: dict[str, int] = {}
    waiting: dict[str, list[Row]] = {}
    for topic, row in rows:
        sent[topic] = sent.get(topic, 0) + 1
        batch = waiting.setdefault(topic, [])
        batch.append(row)
        if len(batch) >= BATCH:
            _append(admin, topic, batch, dry_run)
            batch.clear()
    for topic, batch in waiting.items():
        _append(admin, topic, batch, dry_run)
    return sent


def _append(admin: "Admin", topic: str, rows: "list[Row]", dry_run: bool) -> None:
    if rows and not dry_run:
        admin.append(topic, rows)


def _report(sent: dict[str, int], plan: "Plan", settings: "Config", dry_run: bool, as_json: bool) -> None:
    left = {
        "already": plan.already,
        "tired": plan.retries_exhausted,
        "truncated": plan.truncated,
        "homeless": plan.topic_missing,
    }
    if as_json:
        common.print_json({"sent": sent, **left, "dry_run": dry_run})
        return
    verb = "would be sent" if dry_run else "sent"
    for topic, count in sent.items():
        print(f"{count} {verb} back to {topic}")
    if not sent:
        print(f"nothing {'would be ' if dry_run else ''}sent")
    why = {
        "already": "were sent back by an earlier call",
        "tired": f"have been retried {settings.dlq.retries_max} times already ([dlq] retries_max)",
        "truncated": "were too large to be kept whole",
        "homeless": "come from a topic that is gone",
    }
    for kind, count in left.items():
        if count:
            print(f"{count} not sent: they {why[kind]}")


def _letters(
    admin: "Admin", settings: "Config", wanted: "LetterFilter", first: str, upto: str
) -> "Iterator[Letter]":
    from streamlearn.history import topic_reader
    from streamlearn.studies.dead_letters import parse_letter

    topic = settings.topics.dlq
    ends = [topic_reader.resolve_offsets(admin, topic, where) for where in (first, upto)]
    for record in topic_reader.between(admin, topic, *ends):
        letter = parse_letter(record)
        if letter is not None and wanted.takes(letter):
            yield letter


def _letter_at(admin: "Admin", topic: str, place: str) -> "Letter":
    from streamlearn.history import topic_reader
    from streamlearn.studies.dead_letters import parse_letter

    info = topic_reader.topic_info(admin, topic)
    match = re.fullmatch(r"(\d+):(\d+)", place)
    if not match or int(match[1]) >= info.partitions:
        raise ConfigError(f"{place} is no place in {topic}: write PARTITION:OFFSET, as `dlq list` prints it")
    partition, offset = int(match[1]), int(match[2])
    none = info.start
    first = tuple(offset if n == partition else none[n] for n in range(info.partitions))
    upto = tuple(min(offset + 1, info.end[n]) if n == partition else none[n] for n in range(info.partitions))
    found = next(topic_reader.between(admin, topic, first, upto), None) if offset >= none[partition] else None
    letter = parse_letter(found) if found is not None else None
    if letter is None:
        kept = f"{info.start[partition]} to {info.end[partition] - 1}"
        raise ConfigError(f"{topic} has no dead letter at {place}; offsets {kept} are retained there")
    return letter


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
