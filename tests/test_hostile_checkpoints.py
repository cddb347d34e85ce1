"""Whole bytes that are not ours: whatever a sealed checkpoint says, it is refused with its reason."""

import random
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from river import naive_bayes

from streamlearn.core.journal import Era
from streamlearn.core.model.learner import Learner
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import (
    FORMAT,
    MAGIC,
    Header,
    StateSection,
    dump_model,
    dump_state,
    open_header,
    seal,
    unseal,
)
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine.era import restored_state
from streamlearn.errors import BadCheckpoint

CONFIG: dict[str, Any] = {"model_name": "m", "event": {}, "guard": {}}
ERA = Era("genesis", CONFIG, "h", "v1", 1, {"river": "0"}, {"t": ("id", 1)}, [("t", 0, 0)], "fp")
HEADER = Header(7, "ab" * 32, 0, ERA, [("t", 0, 42)], 5)
GOOD = dump_state(Shard(ShardSpec("m", "v", 1), Learner(naive_bayes.GaussianNB()), Memory()))


def opened(data: bytes) -> Shard:
    """What a start makes of the bytes in its store."""
    header, sections = unseal(data)
    return restored_state(header.under, sections, frozenset())


def test_a_good_one_is_opened() -> None:
    assert isinstance(opened(bytes(seal(HEADER, GOOD))).learner.model, naive_bayes.GaussianNB)


@pytest.mark.parametrize(
    "changed",
    [
        {"seq": -1}, {"seq": 10**30}, {"learned": 10**30}, {"learned": -5}, {"era": -1},
        {"digest": "zz" * 32}, {"digest": ""}, {"positions": [("t", 0, -1)]}, {"positions": [("t", -1, 1)]},
        {"positions": [("t", 0, 10**20)]}, {"positions": [("t", 0, 1), ("t", 0, 2)]},
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_true_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match="header"):
        open_header(seal(msgspec.structs.replace(HEADER, **changed), GOOD))


@pytest.mark.parametrize(
    "config", [{}, {"event": 3}, {**CONFIG, "event": {"format": []}}, {**CONFIG, "guard": 1}]
)
def test_an_era_of_another_shape_is_refused(config: dict[str, Any]) -> None:
    era = msgspec.structs.replace(ERA, config=config)
    with pytest.raises(BadCheckpoint, match="era"):
        opened(bytes(seal(msgspec.structs.replace(HEADER, under=era), GOOD)))


@pytest.mark.parametrize("thing", [3, None, np.dtype("<f8"), [], {}, "text", np.ones(3), random.Random(1)])
def test_a_model_that_is_none_is_refused(thing: Any) -> None:
    with pytest.raises(BadCheckpoint, match="model"):
        opened(bytes(seal(HEADER, {**GOOD, "model": dump_model(thing)})))


@pytest.mark.parametrize("memory", [{"records": -1}, {"learned": 10**30}, {"outcomes": {"prediction": -1}}])
def test_a_memory_that_cannot_be_true_is_refused(memory: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match="memory"):
        opened(bytes(seal(HEADER, {**GOOD, "memory": msgspec.json.encode(memory)})))


def test_a_few_bytes_that_become_a_great_many_are_not_unpacked() -> None:
    size = 1 << 31
    packed = zstandard.ZstdCompressor().compressobj(size=size)
    zeros = bytes(1 << 20)
    payload = b"".join(packed.compress(zeros) for _ in range(size >> 20)) + packed.flush()
    from streamlearn.core.shard import snapshot

    head = msgspec.json.encode(
        msgspec.structs.replace(HEADER, sections=[StateSection("model", size, "00", 1)], format=FORMAT)
    )
    prefix = MAGIC + len(head).to_bytes(4, "big") + head
    with pytest.raises(BadCheckpoint, match="over its limit"):
        unseal(prefix + snapshot._seal([prefix, payload], b"") + payload)


def junk(rng: random.Random, good: bytes) -> bytes:
    """Bytes: of another kind, or good ones with some of them changed, cut or doubled."""
    data = bytearray(good)
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            at = rng.randrange(len(data))
            data[at:at] = data[at : at + rng.randrange(50)]
        case _:
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def test_random_content_that_is_well_sealed_is_refused_or_makes_a_state() -> None:
    rng = random.Random(8)
    model = naive_bayes.GaussianNB()
    for n in range(30):
        model.learn_one({"a": n, "b": -n}, n % 3)
    good = {"model": dump_model(model), "memory": msgspec.json.encode(Memory(records=3)), "scores": b"{}"}
    refused = 0
    for _ in range(1500):
        name = rng.choice([*good, "labels"])
        sections = {**good, name: junk(rng, good.get(name, b"{}"))}
        try:
            opened(bytes(seal(HEADER, sections)))
        except BadCheckpoint as reason:
            refused += bool(str(reason))
    assert refused > 500
