"""Batch inference: a fixed model answers a source, by the very shard of `serve`, and learns nothing.

Invariants:
- Each record has one outcome: a prediction, in the shape of the contract, a dead letter or a skip. The
  model stays as the checkpoint has it, whatever labels there are.
- Memory is bounded: the source is read, and the results are written, as they come.
"""

from typing import Any, NamedTuple

import msgspec

from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.facts import Predicted
from streamlearn.core.shard.snapshot import fresh_state
from streamlearn.engine.checkpoint_file import Saved
from streamlearn.engine.era import spec_of
from streamlearn.engine.offline import Offline
from streamlearn.engine.registry import Schemas
from streamlearn.engine.warm_start import carried
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, ConfigError
from streamlearn.history.feed import Feed
from streamlearn.history.sinks import Sink
from streamlearn.studies.decay import Decay
from streamlearn.studies.feed_run import FeedRun

STATIC = "static"
"""Why a batch's model learns nothing (`Memory.frozen`)."""

_NEVER = 1 << 62


class ScoringJob(NamedTuple):
    """A fixed model: the checkpoint that has it, what its pickle may hold beside river
    (see `core.shard.snapshot.trusted_by`), the address of the schema registry, and the labels in a window of
    the report.
    """

    saved: Saved
    trusted: frozenset[str]
    registry: str = ""
    window: int = 1000


def score(env: Env, job: ScoringJob, run: FeedRun, out: Sink) -> dict[str, Any]:
    """Answer every event of a feed by a fixed model, as `streamlearn score` does (docs/offline.md).

    Args:
        env: Clocks.
        job: The model's checkpoint.
        run: The feed, and the flag that ends it early.
        out: The sink of the predictions.

    Returns:
        `records`, `predictions`, `outcomes` (records by outcome), `seconds`, `per_s`, `model`, `checkpoint`
        and `decay` (see `Decay.report`).

    Raises:
        Stop: The model fails at every event, or the flag was set.
    """
    began_s = env.monotonic()
    offline = _static(env, job, run.feed)
    spec = offline.shard.spec
    decay = Decay(job.window)
    records = predictions = 0
    for _, facts in run.steps(offline):
        records += 1
        decay.note(facts, offline.shard)
        for fact in facts:
            if isinstance(fact, Predicted):
                out.write((fact.output,))
                predictions += 1
    took_s = env.monotonic() - began_s
    return {
        "records": records,
        "predictions": predictions,
        "outcomes": dict(offline.shard.memory.outcomes),
        "seconds": round(took_s, 3),
        "per_s": round(records / took_s, 1) if took_s else 0.0,
        "model": {
            "name": spec.model_name,
            "version": spec.model_version,
            "revision": spec.revision,
            "learned": offline.shard.memory.learned,
        },
        "checkpoint": {"name": job.saved.name, "sha256": job.saved.sha256},
        "decay": decay.report(offline.shard),
    }


def _static(env: Env, job: ScoringJob, feed: Feed) -> Offline:
    """A shard that answers and does not learn. Every row has its answer, so ids that come twice are answered
    twice. Raises `ConfigError` when the checkpoint's model cannot do that.
    """
    spec = feed.spec(spec_of(job.saved.header.under))
    event = msgspec.structs.replace(spec.event, duplicates=0)
    memory = carried(job.saved.sections)
    memory.frozen = STATIC
    sections = fresh_state(job.saved.sections["model"], memory)
    scores = ScoresSpec(every=_NEVER, window=job.window)
    spec = msgspec.structs.replace(spec, event=event, scores=scores)
    try:
        offline = Offline(spec, sections, job.trusted, Schemas(env, job.registry), static=True)
    except BadCheckpoint as reason:
        raise ConfigError(f"the checkpoint {job.saved.name} must not be loaded: {reason}") from reason
    if offline.shard.learner.task == "forecasting":
        raise ConfigError(
            "a forecaster looks ahead from the labels that it has learned, and a fixed one would forecast the"
            " same for every event: serve it, or see how good it is with `streamlearn backtest`"
        )
    return offline
