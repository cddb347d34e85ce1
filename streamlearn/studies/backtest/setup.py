"""Set-up of a backtest: records, rules and models.

A source is read as `train` reads it (`history.feed`). When it is an input topic of the configured service,
the records are those of all its topics instead, in the order of its journal (`history.journal_order`), under
the very rules of the service.

Invariant: the same source, configuration and models give the same records and rules; no clock is asked.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from streamlearn.config.schema import Config
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.state import ShardSpec
from streamlearn.engine.era import spec_of
from streamlearn.engine.model import ModelTemplate, configured_model, model_template
from streamlearn.env import Env
from streamlearn.errors import ConfigError
from streamlearn.history.feed import Feed
from streamlearn.history.journal_order import Recorded
from streamlearn.history.label_delay import Delay
from streamlearn.history.sources import ReadOptions, open_source, topic_range
from streamlearn.log.port import Admin
from streamlearn.studies.backtest.backtest import StreamDescription
from streamlearn.studies.backtest.candidate import Candidate
from streamlearn.studies.train import offline_era

MAX_MODELS: Final = 12
UNDATED_MS: Final = 4_102_444_800_000
"""When a record arrived whose source does not say: 2100, the same in every run and after every event."""

_NEVER: Final = 1 << 62
_BY_SOURCE: Final = "source"


class BacktestSetup:
    """`records`, to be read once, after `candidates`; `total`: the number of events, where it is known;
    `notes`: what a person should know about how the source is read. Raises `ConfigError`.
    """

    def __init__(
        self,
        env: Env,
        config: Config,
        source: str,
        options: ReadOptions,
        delay: tuple[str, Delay | None],
        limit: int | None,
        admin: Admin | None,
    ) -> None:
        text, late = delay
        self._env = env
        self._config = config
        self._source = source
        self._feed: Feed | None = None
        self._recorded: Recorded | None = None
        topic = source.removeprefix("topic:").partition("@")[0]
        own = source.startswith("topic:") and topic in config.topics.input
        if own and admin is not None and late is None and not options.columns.is_given:
            recorded = self._recorded = Recorded(admin, config, *topic_range(source, admin))
            others = {config.topics.labels, config.topics.control}
            self.records: Iterator[Record | None] = _limited(recorded.records(), others, limit)
            self.notes: tuple[str, ...] = ()
            self.total = limit
            when = f"on {config.topics.labels}" if config.topics.labels else ""
            self.stream = StreamDescription(source, when, config.topics.labels, recorded.order)
            return
        feed = self._feed = Feed(
            open_source(source, options, admin), options, late, limit, undated_ms=UNDATED_MS
        )
        self.records = feed.records()
        self.notes = feed.source.notes
        self.total = feed.total
        self.stream = StreamDescription(source, _when(text, late), feed.labels, _BY_SOURCE)

    def candidates(self, uses: list[str]) -> list[Candidate]:
        """The models, fresh, each under a name of its own. Raises `ConfigError`."""
        if len(uses) > MAX_MODELS:
            raise ConfigError(
                f"{len(uses)} models are too many to look at side by side: at most {MAX_MODELS}"
            )
        registry = self._config.event.schema_registry
        candidates: list[Candidate] = []
        for use in uses:
            template = self._template(use)
            name = _unique(_short(use), [candidate.name for candidate in candidates])
            candidates.append(Candidate(self._env, name, use, template, self._spec(template), registry))
        return candidates

    def _template(self, use: str) -> ModelTemplate:
        section = self._config.model
        if use == section.use:
            return configured_model(self._config)
        return model_template(self._config.app.name, use, {}, [], horizon=section.horizon)

    def remarks(self) -> list[str]:
        """Remarks for a person on the rows that were read."""
        return [] if self._feed is None else self._feed.source.remarks()

    def _spec(self, template: ModelTemplate) -> ShardSpec:
        scores = self._config.scores
        spec = spec_of(offline_era(self._config, template, self._source))
        spec = msgspec.structs.replace(spec, scores=ScoresSpec(scores.every or _NEVER, scores.window, True))
        if self._feed is not None:
            return self._feed.spec(spec)
        assert self._recorded is not None
        return msgspec.structs.replace(spec, revision=self._recorded.revision)


def _limited(records: Iterator[Record], others: set[str], limit: int | None) -> Iterator[Record]:
    """The records up to the last of `limit` events; those of the topics `others` are no events."""
    events = 0
    for record in records:
        if record.topic not in others:
            if events == limit:
                return
            events += 1
        yield record


def _when(text: str, delay: Delay | None) -> str:
    """When labels come, in words; "" when inside their events."""
    if delay is None:
        return ""
    if delay.group:
        return f"with the last event of each {delay.group}"
    if delay.field:
        return f"at the time in {delay.field}"
    return f"{text} events later" if delay.events else f"{text} later"


def _short(use: str) -> str:
    """A model's name in tables: a preset's as it stands, of others what comes after the module."""
    return use if use.startswith("preset:") else use.rpartition(":")[2]


def _unique(name: str, others: list[str]) -> str:
    n = sum(earlier == name or earlier.startswith(f"{name} (") for earlier in others)
    return f"{name} ({n + 1})" if n else name
