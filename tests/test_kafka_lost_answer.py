"""A commit whose answer is lost on its way, from a real broker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlearn.core.journal import Entry
from streamlearn.core.records import Output
from streamlearn.env import RealEnv
from streamlearn.errors import Unknown
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.kafka.log import KafkaAdmin, KafkaLog
from streamlearn.log.port import TopicNames, TopicSpec
from tests.kafka_proxy import Proxy

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """Before a broker of our own, which sends everybody through it."""
    proxy = Proxy()
    call = [sys.executable, str(SCRIPT)]
    data = ["--data", str(tmp_path / "broker")]
    through = f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"
    started = subprocess.run(
        [*call, "start", *data, "--set", through], capture_output=True, text=True, check=True
    )
    proxy.target = int(started.stdout.strip().rpartition(":")[2])
    yield proxy
    proxy.close()
    subprocess.run([*call, "stop", "--wipe", *data], check=True, capture_output=True)


def entry(seq: int) -> Entry:
    return Entry(seq=seq, era=0, digest="0" * 64)


@pytest.mark.kafka
def test_a_commit_that_had_to_be_sent_twice_is_unknown_and_the_journal_tells(proxy: Proxy) -> None:
    roles = {role: f"app.{role}" for role in ("predictions", "dlq", "journal", "checkpoints")}
    names = TopicNames("app", "", ("app.events",), roles)
    address = f"127.0.0.1:{proxy.port}"
    admin = KafkaAdmin(RealEnv(), address, {})
    admin.create([TopicSpec(names.inputs[0], 1), *wanted_topics(names, 1)])
    log = KafkaLog(RealEnv(), names, address, {})
    shard = log.open(0)
    shard.publish(entry(0), [Output("predictions", 0, None, b"0")], {})
    proxy.lose_the_answer_to_the_next_commit()
    with pytest.raises(Unknown, match="had to be sent again"):
        shard.publish(entry(1), [Output("predictions", 0, None, b"1")], {})
    assert proxy.lost == 1
    with pytest.raises(Unknown):
        shard.publish(entry(2), [], {})
    shard.close()
    shard = log.open(0)
    assert shard.end == entry(1), "the broker had taken it"
    shard.publish(entry(2), [], {})
    shard.close()
    log.close()
    admin.close()
