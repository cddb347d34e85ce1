"""`streamlearn.load`: the river model in a checkpoint, for a notebook or a program.

Invariant: a model's pickle is opened by the allow-list alone; what is trusted beyond river is what the
caller names, by `use` or by a configuration.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlearn.engine.checkpoint_file import Saved, model_in, read_saved, saved_from
from streamlearn.engine.model import configured_model, model_template
from streamlearn.engine.presets import PRESETS
from streamlearn.errors import BadCheckpoint, ConfigError

if TYPE_CHECKING:
    from streamlearn.config.schema import Config


def load(where: str | Path = "", *, use: str = "", key: str = "", config: str | Path = "") -> Any:
    """The river model as it stood at a checkpoint: yours, to predict with and to learn on.

    Args:
        where: `file:DIR@latest`, `file:DIR@SEQ` or one file; "" for the newest checkpoint of the service that
            `config` describes, also from Kafka.
        use: The model's maker as in `[model] use` (`my_models:build`). Needed for classes of your own, whose
            package is then imported and trusted.
        key: The `[checkpoint] key`, where there is one.
        config: A TOML file of a service; it gives `use` and `key`.

    Returns:
        The river model. Nothing is written back.

    Raises:
        ConfigError: There is no such checkpoint, or it must not be loaded; the message has the reason.

    Example:
        >>> try:
        ...     load()
        ... except ConfigError as error:
        ...     print(str(error).partition(":")[0])
        say which checkpoint
    """
    if not where and not config:
        raise ConfigError(
            'say which checkpoint: streamlearn.load("file:DIR@latest"), a file, or config="streamlearn.toml"'
        )
    if not config:
        saved = read_saved(str(where), key)
        return model_in(saved, trusted_names(use) | preset_names(saved))
    from streamlearn.config.load import load as load_config

    settings = load_config(Path(config), {"model.use": use} if use else {}, need_input=False)
    template = configured_model(settings)
    key = key or settings.checkpoint.key
    saved = read_saved(str(where), key) if where else _newest(settings, key)
    return model_in(saved, template.trusted | preset_names(saved))


def trusted_names(use: str) -> frozenset[str]:
    """What naming a model's maker allows its checkpoints to hold; of presets and river nothing more is
    needed. Raises `ConfigError`.
    """
    return model_template("", use, {}, []).trusted if use else frozenset()


def preset_names(saved: Saved) -> frozenset[str]:
    """What a checkpoint that says it is of a preset may hold: what that preset, which is ours, holds."""
    name = str(saved.header.under.config.get("model_name", ""))
    return (
        trusted_names(name)
        if name.startswith("preset:") and name.removeprefix("preset:") in PRESETS
        else frozenset()
    )


def _newest(settings: "Config", key: str) -> Saved:
    """The newest checkpoint of a service that its journal names and that is whole."""
    from streamlearn.core.records import SHARD
    from streamlearn.engine.checkpoints import named_bytes
    from streamlearn.engine.journal_end import named_checkpoints
    from streamlearn.env import RealEnv
    from streamlearn.log.backends import open_admin, open_store

    env, refused = RealEnv(), ""
    reader, store = open_admin(env, settings), open_store(env, settings, SHARD)
    try:
        for named in reversed(named_checkpoints(reader, (settings.topics.journal, SHARD))):
            try:
                return saved_from(named.name, named_bytes(store, named), key)
            except (BadCheckpoint, ConfigError) as reason:
                refused = refused or f"; the newest: {reason}"
    finally:
        store.close()
        reader.close()
    raise ConfigError(f"the service {settings.app.name} has no checkpoint that can be loaded{refused}")
