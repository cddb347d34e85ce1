"""From the configuration to an adapter: the one place that knows which backend is behind which name.

Invariant: an adapter's module is imported only when it is asked for, so that the embedded log works
without ever loading a Kafka client.
"""

from pathlib import Path

from streamlearn.config.load import Config, duration_s
from streamlearn.env import Env
from streamlearn.log.background_store import BackgroundStore
from streamlearn.log.port import Admin, Blobs, CheckpointStore, Log


def open_log(env: Env, config: Config) -> Log:
    """The connection of a service process. Raises `Unreachable` or `ConfigError`."""
    if config.log.backend == "embedded":
        from streamlearn.log.embedded.log import EmbeddedLog

        return EmbeddedLog(env, config.names(), config.log.path, duration_s(config.log.retention))
    from streamlearn.log.kafka.log import KafkaLog

    # A folder is this host's own: another replica may need every entry since the beginning.
    shared = not config.checkpoint.url
    log = config.log
    return KafkaLog(env, config.names(), log.bootstrap_servers, log.options, trims=shared, client=log.client)


def open_admin(env: Env, config: Config) -> Admin:
    """The connection of a command. Raises `Unreachable` or `ConfigError`."""
    if config.log.backend == "embedded":
        from streamlearn.log.embedded.admin import EmbeddedAdmin

        return EmbeddedAdmin(env, config.log.path)
    from streamlearn.log.kafka.log import KafkaAdmin

    return KafkaAdmin(env, config.log.bootstrap_servers, config.log.options)


def open_store(env: Env, config: Config, shard: int) -> CheckpointStore:
    """The checkpoints of `shard`."""
    return BackgroundStore(env, open_blobs(env, config, shard))


def open_blobs(env: Env, config: Config, shard: int) -> Blobs:
    """Where the checkpoints of `shard` are: `checkpoint.url`, else the backend's own place."""
    if config.checkpoint.url or config.log.backend == "embedded":
        from streamlearn.log.folder_store import FolderStore

        folder = config.checkpoint.url.removeprefix("file:") or f"{config.log.path}.checkpoints"
        # An app that was given other names for its topics (`reset`) has another folder, too.
        default = config.topics.checkpoints == f"{config.app.name}.checkpoints"
        app = config.app.name if default else config.topics.checkpoints
        return FolderStore(env, Path(folder) / app / str(shard))
    from streamlearn.log.kafka.log import TopicStore

    log, topic = config.log, config.topics.checkpoints
    return TopicStore(env, log.bootstrap_servers, log.options, topic, shard)
