"""Checkpoints in a folder: whole or not there at all."""

import fcntl
import os
import socket
from pathlib import Path

import pytest

from streamlearn.env import RealEnv
from streamlearn.errors import BadCheckpoint, Unreachable
from streamlearn.log.folder_store import FolderStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made" / "on-demand"


@pytest.fixture
def store(folder: Path) -> FolderStore:
    return FolderStore(RealEnv(), folder)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_does_not_exist_yet_has_no_checkpoints(store: FolderStore, folder: Path) -> None:
    assert store.names() == []
    assert not folder.exists()


def test_what_is_written_is_read_back_and_nothing_else_is_left(store: FolderStore, folder: Path) -> None:
    store.write("0001", b"\x00state")
    assert store.read("0001") == b"\x00state"
    assert files(folder) == ["0001.ckpt"]


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "link to a device", "too large"])
def test_what_is_no_file_of_a_sane_size_is_refused_at_once(
    kind: str, store: FolderStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("1", b"one")
    place = folder / "2.ckpt"
    match kind:
        case "fifo":
            os.mkfifo(place)
        case "socket":
            monkeypatch.chdir(folder)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("2.ckpt")
        case "folder":
            place.mkdir()
        case "too large":
            with place.open("wb") as file:
                file.truncate((4 << 30) + 1)
        case _:
            place.symlink_to("/dev/zero")
    with pytest.raises(BadCheckpoint, match=r"2\.ckpt cannot be read"):
        store.read("2")
    (folder / "3.ckpt").symlink_to(folder / "1.ckpt")
    assert store.read("3") == b"one"


def test_every_folder_that_was_made_is_synced_into_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    FolderStore(RealEnv(), tmp_path / "a" / "b" / "c").write("1", b"one")
    folders = [Path(name) for name in synced if Path(name).is_dir()]
    assert folders == [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]


def test_names_are_sorted_oldest_first(store: FolderStore) -> None:
    for name in ("0002", "0010", "0001.b"):
        store.write(name, b"")
    assert store.names() == ["0001.b", "0002", "0010"]


def test_names_are_forgotten_and_missing_ones_forgiven(store: FolderStore) -> None:
    store.write("1", b"one")
    store.write("2", b"two")
    store.forget({"1": "", "0": ""})
    assert store.names() == ["2"]


def test_writing_a_name_again_replaces_it(store: FolderStore) -> None:
    store.write("1", b"one")
    store.write("1", b"uno")
    assert store.read("1") == b"uno"


def test_a_write_that_fails_leaves_nothing(
    store: FolderStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("1", b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unreachable, match=r"on-demand.*No space left on device.*make room"):
        store.write("2", b"two")
    assert files(folder) == ["1.ckpt"]


def test_leftovers_of_dead_writers_are_removed_and_those_of_live_ones_are_not(
    store: FolderStore, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / ".1.ckpt.dead.tmp").write_bytes(b"half")
    with (folder / ".2.ckpt.alive.tmp").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert store.names() == []
        store.write("3", b"whole")
    assert files(folder) == [".2.ckpt.alive.tmp", "3.ckpt"]


def test_a_missing_checkpoint_is_bad(store: FolderStore) -> None:
    with pytest.raises(BadCheckpoint, match=r"7.*No such file"):
        store.read("7")


def test_an_unreadable_checkpoint_is_bad(store: FolderStore, folder: Path) -> None:
    (folder / "1.ckpt").mkdir(parents=True)
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        store.read("1")


@pytest.mark.parametrize("name", ["", ".", "../1", "a/b", "a b", ".hidden", "ü", "a\n", "x" * 201])
def test_a_name_that_could_leave_the_folder_is_refused(store: FolderStore, name: str) -> None:
    with pytest.raises(BadCheckpoint, match="not a checkpoint's name"):
        store.read(name)
    with pytest.raises(BadCheckpoint, match="not a checkpoint's name"):
        store.write(name, b"")
    with pytest.raises(BadCheckpoint, match="not a checkpoint's name"):
        store.forget({"good": "", name: ""})
    assert store.names() == []


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FolderStore(RealEnv(), tmp_path / "file" / "folder")
    with pytest.raises(Unreachable, match=r"file/folder cannot be written.*checkpoint\.url"):
        store.write("1", b"")
    with pytest.raises(Unreachable, match=r"file/folder cannot be read"):
        store.names()
