"""scripts/kafka: starts, finds again and stops brokers of their own, and touches nobody else's process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"


def call(*words: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({} if path is None else {"PATH": path, "JAVA_HOME": ""})
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "broker"
    call("stop", "--wipe", "--data", tmp_path / "broker")


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not a broker."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def start(folder: Path, *words: str) -> str:
    done = call("start", "--data", folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pid_of(folder: Path) -> int:
    done = call("status", "--data", folder)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.strip().partition(" pid=")[2])


def is_running(folder: Path) -> bool:
    return call("status", "--data", folder).returncode == 0


@pytest.mark.kafka
def test_a_broker_comes_back_at_the_same_address_with_its_data(folder: Path) -> None:
    address = start(folder)
    assert start(folder) == address, "a second start finds the running broker"
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=address, transactional_id="t")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("kept", b"1").get(10)
    producer.commit_transaction()
    producer.close()

    assert call("stop", "--data", folder).returncode == 0
    assert not is_running(folder)
    assert start(folder) == address
    consumer = KafkaConsumer(
        "kept",
        bootstrap_servers=address,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        consumer_timeout_ms=20000,
    )
    assert next(consumer).value == b"1"
    consumer.close()


@pytest.mark.kafka
def test_two_brokers_run_side_by_side_and_stop_apart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    try:
        assert start(folder) != start(other)
        assert call("stop", "--data", other).returncode == 0
        assert is_running(folder)
    finally:
        call("stop", "--data", other)


@pytest.mark.kafka
def test_a_paused_broker_can_be_stopped(folder: Path) -> None:
    start(folder)
    os.kill(pid_of(folder), signal.SIGSTOP)
    assert call("stop", "--data", folder).returncode == 0
    assert not is_running(folder)


@pytest.mark.kafka
def test_a_broker_ends_with_its_owner_even_by_sigkill(
    folder: Path, stranger: subprocess.Popen[bytes]
) -> None:
    start(folder, f"--owner={stranger.pid}")
    stranger.kill()
    deadline = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < deadline, "the broker outlived its owner"
        time.sleep(0.2)


@pytest.mark.kafka
def test_wiping_removes_what_the_broker_made_and_nothing_else(folder: Path) -> None:
    host, _, port = start(folder).partition(":")
    (folder / "mine.txt").write_text("stays")
    assert call("stop", "--wipe", "--data", folder).returncode == 0
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_a_recycled_pid_is_not_touched(folder: Path, stranger: subprocess.Popen[bytes]) -> None:
    folder.mkdir()
    record = {"engine": "java", "pid": stranger.pid, "port": 1, "controller_port": 2}
    (folder / "broker.json").write_text(json.dumps(record))
    assert not is_running(folder)
    assert call("stop", "--data", folder).returncode == 0
    assert stranger.poll() is None


def test_a_folder_stays_with_its_version_of_kafka(folder: Path) -> None:
    folder.mkdir()
    (folder / "broker.json").write_text(json.dumps({"engine": "java", "version": "3.6.2"}))
    done = call("start", "--version", "4.1.0", "--data", folder)
    assert done.returncode == 2
    assert "holds a broker of Kafka 3.6.2, not 4.1.0" in done.stderr
    assert call("start", "--version", "new", "--data", folder).returncode == 2


def test_without_docker_and_java_it_says_what_to_install(folder: Path) -> None:
    done = call("start", "--data", folder, path="")
    assert done.returncode == 4
    assert done.stdout == ""
    assert "Java 17" in done.stderr
    assert "Maven" in done.stderr
    assert "docker" in done.stderr
