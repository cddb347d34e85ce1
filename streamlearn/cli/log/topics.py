"""`streamlearn topics`: make the topics a service needs, check them, or print the commands for it."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common
from streamlearn.cli.options import InputOptions
from streamlearn.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.log.port import Admin, TopicInfo, TopicSpec

REPLICAS = "min.insync.replicas"
"""Right or wrong only together with the number of brokers: `ensure` decides, `check` does not judge."""


def topics(
    *,
    action: Annotated[
        str,
        typer.Argument(
            metavar="[ensure|check]", help="ensure: make what is missing. check: name what is wrong."
        ),
    ] = "",
    print_only: Annotated[
        bool, typer.Option("--print", help="Print kafka-topics and kafka-acls commands, do nothing.")
    ] = False,
    partitions: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="Partitions of input topics that are made.")
    ] = 1,
    principal: Annotated[
        str, typer.Option(metavar="USER", help="For --print: who runs the service, e.g. User:streamlearn.")
    ] = "",
    service: InputOptions,
) -> None:
    """Make or check the topics of a service, or print the commands for whoever may."""
    settings = service.settings()
    if print_only:
        for line in [*_topic_commands(settings, partitions), *_acl_commands(settings, principal)]:
            print(line)
    elif action == "ensure":
        with common.open_admin(settings, make=True) as admin:
            _ensure(admin, settings, partitions)
    elif action == "check":
        with common.open_admin(settings) as admin:
            _check(admin, settings)
    else:
        raise ConfigError(f"topics {action}: say `topics ensure`, `topics check` or `topics --print`")


def _fed_by_users(settings: "Config") -> list[str]:
    labels = settings.topics.labels
    return [*settings.topics.input, *([labels] if labels else [])]


def _wanted(settings: "Config", existing: "dict[str, TopicInfo]", partitions: int) -> "list[TopicSpec]":
    """All topics of the service: the inputs as they are or shall be, and what streamlearn writes."""
    from streamlearn.log.internal_topics import wanted_topics
    from streamlearn.log.port import TopicSpec

    inputs = [
        TopicSpec(topic, existing[topic].partitions if topic in existing else partitions)
        for topic in _fed_by_users(settings)
    ]
    ours = wanted_topics(settings.names(), max(spec.partitions for spec in inputs))
    if settings.log.backend == "embedded":  # its checkpoints are in a folder
        ours = [spec for spec in ours if spec.name != settings.topics.checkpoints]
    return inputs + ours


def _names(settings: "Config") -> list[str]:
    return [spec.name for spec in _wanted(settings, {}, partitions=1)]


def _missing(admin: "Admin", settings: "Config", partitions: int) -> "list[TopicSpec]":
    """The topics of the service that do not exist."""
    existing = admin.topics(_names(settings))
    return [spec for spec in _wanted(settings, existing, partitions) if spec.name not in existing]


def _judged(settings: "Config", spec: "TopicSpec") -> dict[str, str]:
    """The settings of a topic that can be right or wrong by themselves.

    A file gives every record the time of its arrival, also in topics from before that was a setting.
    """
    from streamlearn.log.internal_topics import ARRIVAL

    unjudged = {REPLICAS, *(ARRIVAL if settings.log.backend == "embedded" else ())}
    return {key: value for key, value in spec.settings.items() if key not in unjudged}


def _ensure(admin: "Admin", settings: "Config", partitions: int) -> None:
    missing = _missing(admin, settings, partitions)
    for spec in missing:
        details = "".join(f" {key}={value}" for key, value in _judged(settings, spec).items())
        plural = "" if spec.partitions == 1 else "s"
        print(f"making {spec.name} with {spec.partitions} partition{plural}{details}")
    admin.create(missing)
    durable = [spec for spec in missing if REPLICAS in spec.settings]
    if settings.log.backend == "kafka" and durable:
        replicas = durable[0].settings[REPLICAS]
        if admin.settings(durable[0].name).get(REPLICAS) == replicas:
            print(f"{REPLICAS}={replicas} for those that streamlearn writes")
    print(f"made {len(missing)} topics" if missing else "all topics exist; nothing to do")
    if differences := _differences(admin, settings):
        raise CheckFailed(
            "topics that exist are not as they should be, and are left as they are:\n  "
            + "\n  ".join(differences)
        )


def make_in_file(settings: "Config") -> None:
    """Make what is missing in the embedded file, where nobody's permission is needed for it."""
    import structlog

    with common.open_admin(settings, make=True) as admin:
        missing = _missing(admin, settings, partitions=1)
        admin.create(missing)
    for spec in missing:
        structlog.get_logger().info("topic.made", topic=spec.name, partitions=spec.partitions)


def _check(admin: "Admin", settings: "Config") -> None:
    if differences := _differences(admin, settings):
        raise CheckFailed(
            "the topics are not as they should be:\n  "
            + "\n  ".join(differences)
            + "\n`streamlearn topics ensure` makes those that are missing"
        )
    print("all topics are as they should be")


def _differences(admin: "Admin", settings: "Config") -> list[str]:
    existing = admin.topics(_names(settings))
    differences = []
    for spec in _wanted(settings, existing, partitions=1):
        if spec.name not in existing:
            differences.append(f"{spec.name} is missing")
            continue
        count = existing[spec.name].partitions
        if count != spec.partitions:
            differences.append(f"{spec.name} has {count} partitions, not {spec.partitions}")
        actual = admin.settings(spec.name)
        differences += [
            f"{spec.name}: {key} is {actual.get(key, 'not set')}, not {value}"
            + _alteration(settings, spec.name, f"{key}={value}")
            for key, value in _judged(settings, spec).items()
            if actual.get(key) != value
        ]
    return differences


def _alteration(settings: "Config", topic: str, setting: str) -> str:
    """The command that mends a setting on Kafka; a file has no use for any."""
    from streamlearn.log.internal_topics import alter_command

    if settings.log.backend == "embedded":
        return ""
    return f"\n    {alter_command(settings.log.bootstrap_servers, topic, setting)}"


def _topic_commands(settings: "Config", partitions: int) -> list[str]:
    lines = [f"# with fewer than 3 brokers: a smaller --replication-factor, and no {REPLICAS}"]
    for spec in _wanted(settings, {}, partitions):
        words = ["--create", "--if-not-exists", "--topic", spec.name, "--partitions", str(spec.partitions)]
        if REPLICAS in spec.settings:
            words += ["--replication-factor", "3"]
        for key, value in spec.settings.items():
            words += ["--config", f"{key}={value}"]
        lines.append(_command("kafka-topics.sh", settings, words))
    return lines


def _acl_commands(settings: "Config", principal: str) -> list[str]:
    """Commands that grant the service's principal what it needs, and no more."""
    grant = ["--add", "--allow-principal", principal or "User:streamlearn"]
    roles = settings.names().roles
    lock = settings.names().lock
    resources = [
        *(
            ("--topic", topic, "literal", "Read Describe DescribeConfigs")
            for topic in _fed_by_users(settings)
        ),
        ("--topic", roles["predictions"], "literal", "Write Describe DescribeConfigs"),
        ("--topic", roles["dlq"], "literal", "Write Describe DescribeConfigs"),
        ("--topic", roles["scores"], "literal", "Write Describe DescribeConfigs"),
        ("--topic", roles["alerts"], "literal", "Write Describe DescribeConfigs"),
        ("--topic", roles["control"], "literal", "Read Describe DescribeConfigs"),
        ("--topic", roles["journal"], "literal", "Read Write Delete Describe DescribeConfigs"),
        ("--topic", roles["checkpoints"], "literal", "Read Write Delete Describe DescribeConfigs"),
        ("--group", lock, "literal", "Read Describe"),
        ("--transactional-id", f"{lock}.", "prefixed", "Write Describe"),
    ]
    lines = []
    for kind, name, pattern, operations in resources:
        words = [*grant, kind, name, "--resource-pattern-type", pattern]
        for operation in operations.split():
            words += ["--operation", operation]
        lines.append(_command("kafka-acls.sh", settings, words))
    return lines


def _command(tool: str, settings: "Config", words: list[str]) -> str:
    return shlex.join([tool, "--bootstrap-server", settings.log.bootstrap_servers, *words])
