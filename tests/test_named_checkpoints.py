"""The journal names the checkpoints: what no entry names counts for nothing, and what it names is that or
refused.
"""

from pathlib import Path

import msgspec
import orjson
import pytest
from structlog.testing import capture_logs

from streamlearn.core.journal import Entry
from streamlearn.core.shard import snapshot
from streamlearn.core.shard.snapshot import seal, unseal
from streamlearn.engine.checkpoint_file import read_saved
from streamlearn.engine.checkpoints import BlobName
from streamlearn.errors import Stop
from tests.command import Command, command
from tests.faulty_log import Fault, Harness, Killed, fails, name_anew, rewrite
from tests.test_faults import audit, events, expected, logistic, published

__all__ = ["command"]


@pytest.fixture
def app(tmp_path: Path) -> Harness:
    return Harness(tmp_path, model=logistic)


def blobs(app: Harness) -> list[Path]:
    return sorted((app.folder / "log.db.checkpoints" / "app" / "0").glob("*.ckpt"))


def named(app: Harness) -> list[int]:
    """The entries of the checkpoints that the journal names at its end."""
    entries = {entry.seq: entry for entry in app.journal()}
    return [one.seq for one in entries[entries[max(entries)].named].checkpoints]


def naming(entry: Entry) -> bool:
    return bool(entry.checkpoints)


def test_the_genesis_names_the_state_it_begins_with(app: Harness) -> None:
    app.produce(events(10))
    app.run()
    genesis = app.journal()[0]
    assert [(one.seq, one.digest) for one in genesis.checkpoints] == [(0, genesis.digest)]
    assert genesis.named == 0


def test_an_idle_stream_has_an_entry_of_its_own_that_names(app: Harness) -> None:
    app.produce(events(100))
    app.run()
    *_, stepped, last = app.journal()
    assert (stepped.outputs, naming(stepped)) == (50, False)
    assert (last.outputs, last.ranges, last.steps, last.named) == (0, [], False, last.seq)
    assert named(app) == [0, stepped.seq]


def test_starts_and_stops_of_an_idle_service_write_nothing(app: Harness) -> None:
    app.produce(events(100))
    app.run()
    before = app.journal(), [(path.name, path.stat().st_mtime_ns) for path in blobs(app)]
    for _ in range(2):
        app.run()
    assert (app.journal(), [(path.name, path.stat().st_mtime_ns) for path in blobs(app)]) == before


def test_every_entry_leads_to_what_names_the_checkpoints(app: Harness) -> None:
    for first in range(0, 300, 100):
        app.produce(events(100, start=first))
        app.run()
    newest = 0
    for entry in app.journal():
        newest = entry.seq if naming(entry) else newest
        assert entry.named == newest


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_birth_that_was_cut_short_begins_anew(app: Harness, when: str) -> None:
    stream = events(100)
    app.produce(stream)
    with pytest.raises(Killed):
        app.run(Fault("publish", 0, fails(Killed()), when))
    assert len(blobs(app)) == 1
    audit(app, stream)


def test_a_blob_that_is_exchanged_for_an_older_one_is_refused_without_a_key(app: Harness) -> None:
    stream = events(300)
    app.produce(stream[:100])
    app.run()
    app.produce(stream[100:200])
    app.run()
    first, *_, newest = blobs(app)
    newest.write_bytes(first.read_bytes())
    app.produce(stream[200:])
    with capture_logs() as told:
        app.run()
    assert [line["name"] for line in told if line["event"] == "checkpoint.refused"] == [newest.stem]
    assert published(app) == expected(stream)


def test_a_whole_blob_of_this_journal_that_nothing_names_is_no_state_to_begin_from(app: Harness) -> None:
    """As a writer that was paused leaves it, when it wakes after another has gone on: with another state in
    it.
    """
    stream = events(200)
    app.produce(stream[:100])
    app.run()
    newest = blobs(app)[-1]
    header, sections = unseal(newest.read_bytes())
    name = BlobName.parse(newest.stem)
    assert name is not None
    zombie = newest.with_stem(name._replace(number=99).text)
    untaught = unseal(blobs(app)[0].read_bytes())[1]
    zombie.write_bytes(seal(header, {**sections, "model": untaught["model"]}))
    app.produce(stream[100:])
    app.run()
    assert published(app) == expected(stream)
    app.produce(stream[:1])
    app.run()
    assert not zombie.exists(), "it is of an older claim, and no entry names it"


def test_an_entry_of_the_format_before_is_refused_by_name_and_reset_goes_on(
    app: Harness, command: Command
) -> None:
    app.produce(events(100))
    app.run()
    rewrite(
        app.config.log.path,
        app.config.topics.journal,
        lambda record: orjson.dumps({**orjson.loads(record.value or b""), "format": 1}),
    )
    with pytest.raises(
        Stop, match=r"entry 3 of the journal has format 1, and .* writes formats 2 and 3.*reset"
    ):
        app.run()
    words = [
        "reset",
        "--start",
        "predictions",
        "--yes",
        "--db",
        app.config.log.path,
        "-n",
        "app",
        "-i",
        "events",
    ]
    result = command(*words)
    assert result.code == 0, result.err
    assert "events-0@100" in result.out


def test_a_checkpoint_of_the_format_before_is_refused_by_name(
    app: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = events(200)
    app.produce(stream[:100])
    app.run()
    newest = blobs(app)[-1]
    header, sections = unseal(newest.read_bytes())
    with monkeypatch.context() as before:
        before.setattr(snapshot, "FORMAT", 1)
        newest.write_bytes(seal(header, sections))
    name_anew(app.config.log.path, app.config.topics.journal, newest)
    app.produce(stream[100:])
    with capture_logs() as told:
        app.run()
    refused = [line["reason"] for line in told if line["event"] == "checkpoint.refused"]
    assert refused
    assert all("format 1" in reason for reason in refused)
    assert published(app) == expected(stream)


def test_a_services_folder_can_be_named_by_entry_and_stray_files_do_no_harm(app: Harness) -> None:
    app.produce(events(100))
    app.run()
    first, newest = blobs(app)
    newest.with_stem("zzz").write_bytes(b"junk")
    folder = f"file:{newest.parent}"
    assert read_saved(f"{folder}@latest").name == str(newest)
    assert read_saved(f"{folder}@0").name == str(first)
    assert msgspec.structs.asdict(read_saved(folder).header)["seq"] == named(app)[-1]


def test_list_and_verify_say_what_the_journal_says(app: Harness, command: Command) -> None:
    app.produce(events(100))
    app.run()
    first, newest = blobs(app)
    name = BlobName.parse(newest.stem)
    assert name is not None
    stray = newest.with_stem(name._replace(number=77).text)
    stray.write_bytes(newest.read_bytes())
    words = ["--db", app.config.log.path, "-n", "app"]
    lines = command.ok("checkpoints", "list", *words).splitlines()
    assert [line.split()[0] for line in lines if "not named by the journal" in line] == [stray.stem]
    assert f"{stray.stem}  not named by the journal" in command.ok("checkpoints", "verify", *words)
    newest.write_bytes(first.read_bytes())
    result = command("checkpoints", "verify", *words)
    assert result.code == 3
    assert f"{newest.stem}  BAD: it is not the one that the journal names" in result.out
    newest.unlink()
    assert f"{newest.stem}  BAD: " in command("checkpoints", "verify", *words).out
