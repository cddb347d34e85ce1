"""What a service begins with: a fresh model, or the state of a checkpoint that `[model] start_from` names.

Invariants:
- The checkpoint's sha256 stands in the era that begins with it, so that a redo from there begins with the
  very same bytes or not at all. Only that needs the checkpoint again; an ordinary restart does not.
- Carried on are the model and what it was taught by: how much it has learned, the labels' type and the
  features' types. All else is the new service's own: counts, recent ids, dead letters, scores and the
  labels it waits for; and the time unit, because history is often written in another than the stream.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from streamlearn.core.journal import Era
from streamlearn.core.shard.snapshot import fresh_state, load_memory
from streamlearn.core.shard.state import COMMAND, PAUSED, Memory
from streamlearn.engine.checkpoint_file import Saved, model_in, read_saved
from streamlearn.engine.model import ModelTemplate
from streamlearn.errors import BadCheckpoint, ConfigError, Stop

if TYPE_CHECKING:
    from streamlearn.config.schema import Config


class WarmStart:
    """The state that a new revision of one service begins with; the checkpoint is read when it is needed."""

    def __init__(self, config: "Config", template: ModelTemplate) -> None:
        self._where = config.model.start_from
        self._key = config.checkpoint.key
        self._template = template
        self._saved: Saved | None = None

    @property
    def sha256(self) -> str:
        """Of the checkpoint that a new revision begins from; "" for a fresh model. Raises `ConfigError`."""
        return self._checked().sha256 if self._where else ""

    def differs_from(self, era: Era) -> bool:
        """True if the user names another beginning than the one that the revision of `era` had."""
        return bool(self._where) and self.sha256 != era.warm_start_sha256

    def sections(self, era: Era) -> dict[str, bytes]:
        """The state with which `era` begins, the first of its revision. Raises `Stop` when that needs a
        checkpoint that is not at hand.
        """
        if not era.warm_start_sha256:
            return fresh_state(self._template.pickled)
        saved = self._checked() if self._where else None
        if saved is None or saved.sha256 != era.warm_start_sha256:
            remark = f"; {saved.name} is another one (sha256 {saved.sha256})" if saved else ""
            raise Stop(
                f"this service began from a trained checkpoint (sha256 {era.warm_start_sha256}), and none of"
                f" its own leads to the journal's end, so its state must be made again from that one{remark}."
                " Name it with --from or [model] start_from, or restore one of the service's own checkpoints"
            )
        return fresh_state(saved.sections["model"], carried(saved.sections))

    def _checked(self) -> Saved:
        """The checkpoint, if it is one of this model's. Raises `ConfigError`."""
        if self._saved is None:
            saved = read_saved(self._where, self._key)
            version = saved.header.under.model_version
            if version != self._template.version:
                name = saved.header.under.config.get("model_name", "")
                raise ConfigError(
                    f"the checkpoint {saved.name} holds the model version {version} ({name}), and [model]"
                    f" builds version {self._template.version} ({self._template.name}): train it again with"
                    " this [model] and [app] name, or configure the model that it was trained with"
                )
            model_in(saved, self._template.trusted)
            if frozen := carried(saved.sections).frozen:
                raise ConfigError(
                    f"the model in {saved.name} no longer learns ({frozen}): begin with another one"
                )
            self._saved = saved
        return self._saved


def carried(sections: Mapping[str, bytes]) -> Memory:
    """What the model in a checkpoint was taught by; all else of a state is a new service's own.

    Raises `ConfigError`.
    """
    try:
        before = load_memory(sections)
    except BadCheckpoint as reason:
        raise ConfigError(f"the checkpoint must not be loaded: {reason}") from reason
    frozen = "" if before.frozen in (PAUSED, COMMAND) else before.frozen  # about that stream, not the model
    return Memory(
        learned=before.learned,
        label_type=before.label_type,
        label_votes=before.label_votes,
        types=before.types,
        frozen=frozen,
    )
