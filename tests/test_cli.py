"""The command line: exit codes and messages at the edge, topics, checkpoints, and how `serve` starts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Command, command

from streamlearn.cli import common, show
from streamlearn.cli.log import data, topics
from streamlearn.cli.service import serve
from streamlearn.config.load import load
from streamlearn.env import RealEnv
from streamlearn.errors import CheckFailed, ConfigError, Stop, StreamlearnError, Unreachable

__all__ = ["command"]

STREAMLEARN = [sys.executable, "-m", "streamlearn"]


def fails_with(error: BaseException) -> Callable[..., None]:
    def fails(*_words: object) -> None:
        raise error

    return fails


@pytest.mark.parametrize("error", [ConfigError("a"), CheckFailed("a"), Unreachable("a"), Stop("a")])
def test_an_error_is_one_line_and_its_exit_code(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: StreamlearnError
) -> None:
    monkeypatch.setattr(show.metadata, "version", fails_with(error))
    result = command("version")
    assert result == (error.exit_code, "", "error: a\n")


def test_a_bug_is_named_with_its_place_and_the_traceback_on_request(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show.metadata, "version", fails_with(ZeroDivisionError("oops")))
    result = command("version")
    assert result.code == 1
    assert re.match(r"error: ZeroDivisionError at test_cli.py:\d+ in fails: oops\n", result.err)
    assert "STREAMLEARN_DEBUG=1" in result.err
    assert "Traceback" not in result.err
    monkeypatch.setenv("STREAMLEARN_DEBUG", "1")
    assert "Traceback" in command("version").err


def test_ctrl_c_exits_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show.metadata, "version", fails_with(KeyboardInterrupt()))
    assert command("version").code == 130


def test_usage_errors_exit_2(command: Command) -> None:
    assert command("nonsense").code == 2
    assert command("tail").code == 2
    bare = command()
    assert "Commands:" in bare.out + bare.err
    assert "Commands:" in command("--help").out


def test_version_names_the_parts(command: Command) -> None:
    parts = json.loads(command.ok("version", "--json"))
    assert set(parts) == {"streamlearn", "python", "river", "numpy", "kafka-python"}
    assert f"river {parts['river']}" in command.ok("version")


def test_config_init_is_a_file_that_config_show_reads(command: Command) -> None:
    Path("streamlearn.toml").write_text(command.ok("config", "init"))
    shown = json.loads(command.ok("config", "show", "--json", "-X", "sasl.password=hunter2", "--db", "x.db"))
    assert shown["topics.input"] == {"value": ["events"], "source": "streamlearn.toml:22"}
    assert shown["log.path"] == {"value": "x.db", "source": "flag --db"}
    assert shown["log.options.sasl.password"] == {"value": "***", "source": "flag -X"}
    plain = command.ok("config", "show")
    assert 'topics.input = ["events"]' in plain
    assert json.loads(command.ok("config", "schema"))["properties"]["transaction"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-X", "nonsense"], "-X nonsense: write KEY=VALUE"),
        (["--backend", "redis"], 'log.backend = "redis" (flag --backend)'),
        (["-b", "host"], 'log.bootstrap_servers = "host" (flag --bootstrap-servers)'),
        (["-b", "host:1", "--db", "x"], "--db (embedded) and --bootstrap-servers (kafka) are both given"),
        (["-c", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_bad_connection_options_exit_2(command: Command, words: list[str], said: str) -> None:
    result = command("tail", "events", *words)
    assert result.code == 2
    assert said in result.err


def test_topics_are_made_once_and_checked(command: Command) -> None:
    made = command.ok("topics", "ensure", "-i", "events", "--db", "s.db", "--partitions", 2)
    assert "making events with 2 partitions" in made
    assert "making streamlearn.journal with 1 partition cleanup.policy=delete" in made
    assert "made 7 topics" in made
    assert "min.insync" not in made  # a file has no replicas,
    assert "message.timestamp.type" not in made  # and times of arrival without being told
    assert (
        command.ok("topics", "check", "-i", "events", "--db", "s.db") == "all topics are as they should be\n"
    )
    assert "nothing to do" in command.ok("topics", "ensure", "-i", "events", "--db", "s.db")


def test_each_difference_is_named_and_exits_3(command: Command) -> None:
    from streamlearn.log.embedded.admin import EmbeddedAdmin
    from streamlearn.log.port import TopicSpec

    admin = EmbeddedAdmin(RealEnv(), "s.db")
    specs = [("events", 2, {}), ("streamlearn.journal", 3, {"retention.ms": "60000"})]
    admin.create([TopicSpec(*spec) for spec in specs])
    admin.close()
    result = command("topics", "check", "-i", "events", "--db", "s.db")
    assert result.code == 3
    for difference in (
        "streamlearn.predictions is missing",
        "streamlearn.journal has 3 partitions, not 1",
        "streamlearn.journal: retention.ms is 60000, not -1",
    ):
        assert difference in result.err
    assert command("topics", "ensure", "-i", "events", "--db", "s.db").code == 3


def test_serve_on_a_file_needs_no_preparation(command: Command) -> None:
    topics.make_in_file(load(None, {"topics.input": ["events"], "log.path": "s.db"}))
    command.ok("topics", "check", "-i", "events", "--db", "s.db")


def test_topics_print_gives_commands_and_touches_nothing(command: Command) -> None:
    words = ("topics", "--print", "-i", "events", "-n", "app", "-b", "nowhere:1", "--principal", "User:me")
    lines = command.ok(*words, "--partitions", 4).splitlines()
    start = "kafka-topics.sh --bootstrap-server nowhere:1 --create --if-not-exists --topic "
    assert f"{start}events --partitions 4" in lines
    assert any(
        line.startswith(f"{start}app.journal --partitions 1") and "retention.ms=-1" in line for line in lines
    )
    acls = [line for line in lines if line.startswith("kafka-acls.sh")]
    assert all("--allow-principal User:me" in line for line in acls)
    assert any(
        "--transactional-id streamlearn.app.journal. --resource-pattern-type prefixed" in line
        for line in acls
    )
    assert any("--group streamlearn.app.journal --resource-pattern-type literal" in line for line in acls)
    assert command("topics", "-i", "events").code == 2


def checkpoint(seq: int, key: bytes = b"") -> bytes:
    from streamlearn.core.journal import Era
    from streamlearn.core.shard.snapshot import Header, seal

    era = Era("genesis", {"model_name": "m", "event": {}}, "h", "v", 0, {"river": "0.26.1"}, {}, [], "f")
    return seal(
        Header(seq, "d" * 64, 0, era, [("events", 0, seq * 10)], 7),
        {"model": b"state", "memory": b"{}"},
        key,
    )


def store_checkpoints(*seqs: int, key: bytes = b"") -> Path:
    from streamlearn.log.folder_store import FolderStore

    folder = Path("s.db.checkpoints/streamlearn/0")
    for seq in seqs:
        FolderStore(RealEnv(), folder).write(f"{seq:012d}", checkpoint(seq, key))
    return folder


def test_checkpoints_are_listed_inspected_and_verified(command: Command) -> None:
    folder = store_checkpoints(3, 5)
    listed = [
        json.loads(line) for line in command.ok("checkpoints", "list", "--db", "s.db", "--json").splitlines()
    ]
    assert [(found["name"], found["seq"]) for found in listed] == [("000000000003", 3), ("000000000005", 5)]
    header = json.loads(command.ok("checkpoints", "inspect", "000000000005", "--db", "s.db"))
    assert (header["seq"], header["positions"]) == (5, [["events", 0, 50]])
    assert "2 checkpoints, all whole" in command.ok("checkpoints", "verify", "--db", "s.db")
    Path("streamlearn.toml").write_text('[model]\nuse = "not_on_this_host:build"\n')
    result = command("checkpoints", "verify", "--db", "s.db")
    assert (result.code, "2 checkpoints, all whole" in result.out) == (0, True)
    assert "only seals and hashes checked" in result.err
    Path("streamlearn.toml").unlink()

    damaged = bytearray((folder / "000000000003.ckpt").read_bytes())
    damaged[-1] ^= 1
    (folder / "000000000003.ckpt").write_bytes(damaged)
    result = command("checkpoints", "verify", "--db", "s.db")
    assert result.code == 3
    assert "000000000003  BAD: " in result.out
    assert "000000000005  ok" in result.out
    assert command("checkpoints", "inspect", "000000000003", "--db", "s.db").code == 3
    missing = command("checkpoints", "inspect", "9", "--db", "s.db")
    assert missing.code == 2
    assert "there are: 000000000003, 000000000005" in missing.err


def test_a_key_is_made_kept_secret_and_never_replaced(command: Command) -> None:
    result = command("checkpoints", "key", "-o", "ckpt.key")
    assert result.code == 0
    key = Path("ckpt.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_text().strip()) >= 43
    assert key.read_text().strip() not in result.out + result.err
    line = f'key = "${{file:{key.absolute()}}}"'
    assert line in result.out
    again = command("checkpoints", "key", "-o", "ckpt.key")
    assert (again.code, "exists" in again.err) == (2, True)
    Path("streamlearn.toml").write_text(f"[checkpoint]\n{line}\n")
    store_checkpoints(3, key=key.read_text().strip().encode())
    assert command("checkpoints", "verify", "--db", "s.db").code == 0
    printed = command("checkpoints", "key")
    assert len(printed.out.strip()) >= 43
    assert printed.out.strip() != key.read_text().strip()
    assert 'key = "${file:' in printed.err


def test_signed_checkpoints_need_their_key(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    store_checkpoints(3, key=b"hunter2")
    assert command("checkpoints", "verify", "--db", "s.db").code == 3
    monkeypatch.setenv("STREAMLEARN_CHECKPOINT__KEY", "hunter2")
    assert command("checkpoints", "verify", "--db", "s.db").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model-change", "rival"], "rival comes in a later version"),
        (["--model-change", "relearn"], "relearn comes in a later version"),
        (["--model-change", "yes"], "must be fresh"),
        (["--app-dir", "none"], "there is no such folder"),
        ([], "topics.input is not given"),
    ],
)
def test_serve_refuses_before_it_starts(command: Command, words: list[str], said: str) -> None:
    result = command("serve", "--db", "s.db", *words)
    assert result.code == 2
    assert said in result.err
    assert not Path("s.db").exists()


def test_the_repeatable_environment() -> None:
    environment = serve.repeatable_environment
    assert environment(False, {}, "x86_64") == {"PYTHONHASHSEED": "0"}
    portable = environment(
        True, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.cpu.hwcaps=AVX2"}, "x86_64"
    )
    assert portable["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1:glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F"
    assert portable["OPENBLAS_NUM_THREADS"] == "1"
    assert "X86_V3" in portable["NPY_DISABLE_CPU_FEATURES"]
    assert environment(True, portable, "x86_64") == portable
    assert "GLIBC_TUNABLES" not in environment(True, {}, "aarch64")
    with pytest.raises(ConfigError, match="not for this machine, riscv64"):
        environment(True, {}, "riscv64")


def started_again(tmp_path: Path, *python: str) -> subprocess.CompletedProcess[str]:
    """Run `serve` with a service that only prints what it was given, started like `python`."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, types\n"
        "def serve(config, model=None, model_change='', begin=False):\n"
        "    seen = {'seed': os.environ.get('PYTHONHASHSEED'), 'path': sys.path[0], 'argv': sys.argv[1:],\n"
        "            'mark': os.environ.get('STREAMLEARN_STARTED_AGAIN'), 'app': config.app.name,\n"
        "            'blas': os.environ.get('OPENBLAS_NUM_THREADS'), 'change': model_change,\n"
        "            'flags': sys.flags.utf8_mode, 'slow': 'numpy' in sys.modules}\n"
        "    print(__import__('json').dumps(seen))\n"
        "fake = types.ModuleType('streamlearn.service')\n"
        "fake.serve = serve\n"
        "sys.modules['streamlearn.service'] = fake\n"
    )
    words = ["serve", "--db", "s.db", "-i", "events", "-n", "a", "--model-change", "fresh"]
    python_path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": python_path, "STREAMLEARN_APP__PORTABLE_MATH": "true"}
    environment.pop("PYTHONHASHSEED", None)
    return subprocess.run(
        [*python, *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


SCRIPT = str(Path(sys.executable).parent / "streamlearn")


@pytest.mark.parametrize(
    "python", [(sys.executable, "-X", "utf8", "-m", "streamlearn"), (sys.executable, "-X", "utf8", SCRIPT)]
)
def test_serve_starts_itself_again_with_the_same_words(tmp_path: Path, python: tuple[str, ...]) -> None:
    if not Path(python[-1]).exists() and python[-1] == SCRIPT:
        pytest.skip("the console script is not installed beside this python")
    done = started_again(tmp_path, *python)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen == {
        "seed": "0", "path": str(tmp_path), "mark": None, "app": "a", "blas": "1", "change": "fresh",
        "flags": 1, "slow": False,
        "argv": ["serve", "--db", "s.db", "-i", "events", "-n", "a", "--model-change", "fresh"],
    }  # fmt: skip


def test_serve_does_not_start_itself_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_STARTED_AGAIN", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    with pytest.raises(Stop, match="something resets PYTHONHASHSEED"):
        serve.start_again(portable_math=False)


def test_the_first_signal_stops_and_the_second_interrupts() -> None:
    with common.stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_ends_well_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "e.jsonl").write_text('{"id":"1"}\n')
    words = ["replay", "e.jsonl", "-t", "events", "--db", "s.db", "--loop", "--rate", "200", "--json"]
    child = subprocess.Popen(
        [*STREAMLEARN, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert "made topic events" in child.stderr.readline()
    follower = subprocess.run(
        [*STREAMLEARN, "tail", "events", "--db", "s.db", "-f", "-o", "beginning", "-n", "5"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert follower.stdout == '{"id":"1"}\n' * 5
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)["sent"] >= 5


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"id":"1"}\n' * 100_000)
    piped = (
        "streamlearn() { " + f'"{sys.executable}" -m streamlearn "$@"' + "; }; set -o pipefail;"
        " cat e.jsonl | streamlearn replay - -t events --db s.db --json >sent.json &&"
        " streamlearn tail events --db s.db -o beginning | head -1"
    )
    done = subprocess.run(
        ["bash", "-c", piped], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, '{"id":"1"}\n'), done.stderr
    assert json.loads((tmp_path / "sent.json").read_text())["sent"] == 100_000


def test_the_umask_decides_who_reads_a_recording(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        data._write_whole(tmp_path / "out.jsonl", iter([b"{}"]))
    finally:
        os.umask(before)
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o640


def test_a_recording_without_a_folder_exits_4(command: Command) -> None:
    command.ok("replay", "river:Phishing", "-t", "e", "--db", "s.db", "--limit", 1)
    result = command("record", "-t", "e", "--db", "s.db", "-o", "none/out.jsonl")
    assert result.code == 4
    assert "none/out.jsonl cannot be written: No such file or directory" in result.err


def test_a_broker_that_is_not_there_exits_4_with_its_address(command: Command) -> None:
    result = command("tail", "events", "-b", "127.0.0.1:1")
    assert result.code == 4
    assert "127.0.0.1:1" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.kafka
def test_topics_on_kafka(command: Command, kafka: str, topic_prefix: str) -> None:
    words = ("-i", f"{topic_prefix}.in", "-n", topic_prefix, "-b", kafka)
    assert command("topics", "check", *words).code == 3
    made = command.ok("topics", "ensure", "--partitions", 2, *words)
    assert "made 8 topics" in made
    assert "message.timestamp.type=LogAppendTime" in made
    assert "min.insync" not in made  # this broker is alone
    command.ok("topics", "check", *words)
    assert command.ok("checkpoints", "list", "-n", topic_prefix, "-b", kafka) == ""
