"""`-o FILE`: whole or not there, through links, into devices and pipes, and on a disk that is full."""

import errno
import os
import stat
from pathlib import Path

import pytest
from terminal import bash

from streamlearn.errors import ConfigError, Unreachable
from streamlearn.history.whole_file import whole_file


def write(path: Path, data: bytes = b"new", **how: bool) -> None:
    with whole_file(path, **how) as file:
        file.write(data)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").write_bytes(b"before")
    (tmp_path / "link").symlink_to("data/old")
    (tmp_path / "dangling").symlink_to("data/none-yet")
    write(tmp_path / "link")
    write(tmp_path / "dangling", b"made")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "data" / "old").read_bytes() == b"new"
    assert (tmp_path / "data" / "none-yet").read_bytes() == b"made"
    assert names(tmp_path / "data") == ["none-yet", "old"]


def test_an_old_file_keeps_its_permissions_and_its_other_names(tmp_path: Path) -> None:
    old, other = tmp_path / "old", tmp_path / "other"
    old.write_bytes(b"a long text before")
    old.chmod(0o640)
    os.link(old, other)
    write(old)
    assert (old.read_bytes(), other.read_bytes()) == (b"new", b"new")
    other.unlink()
    write(old, b"newest")
    assert (old.read_bytes(), stat.S_IMODE(old.stat().st_mode)) == (b"newest", 0o640)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_an_old_file_keeps_its_owner(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.touch()
    os.chown(old, 12345, 23456)
    write(old)
    assert (old.stat().st_uid, old.stat().st_gid) == (12345, 23456)


def test_what_ends_early_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"before")
    with pytest.raises(KeyError), whole_file(old) as file:
        file.write(b"half")
        raise KeyError
    assert (names(tmp_path), old.read_bytes()) == (["old"], b"before")


def test_a_folder_is_refused_and_a_new_file_replaces_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder: name a file in it with -o"):
        write(tmp_path)
    (tmp_path / "old").touch()
    with pytest.raises(ConfigError, match="exists already"):
        write(tmp_path / "old", new=True)


def test_an_error_that_is_not_of_the_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "out"):
        (tmp_path / "none").read_bytes()
    full = pytest.raises(Unreachable, match="out cannot be written: No space left on device")
    with full, whole_file(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_devices_pipes_and_descriptors_are_written_and_not_replaced(tmp_path: Path) -> None:
    init = "streamlearn config init"
    os.mkfifo(tmp_path / "fifo")
    line = (
        f"echo first >both; {init} -o /dev/stdout >>both; {init} -o /dev/null;"
        f" {init} -o /dev/stdout | tail -n 1;"
        f" {init} -o /dev/fd/3 3>three; {init} -o >(cat >four); cat fifo >five & {init} -o fifo; wait;"
        f" sleep 0.2; {init} >plain; ls"
    )
    done = bash(line, tmp_path)
    assert done.code == 0, done.err
    plain = (tmp_path / "plain").read_text()
    assert (tmp_path / "both").read_text() == f"first\n{plain}"
    for name in ("three", "four", "five"):
        assert (tmp_path / name).read_text() == plain, name
    assert (tmp_path / "fifo").is_fifo()
    assert done.out.decode() == plain.splitlines()[-1] + "\nboth\nfifo\nfive\nfour\nplain\nthree\n"


FULL = [
    ("streamlearn config init -o out", "out cannot be written: File too large"),
    ("streamlearn config init -o /dev/full", "/dev/full cannot be written: No space left on device"),
    ("streamlearn config init >/dev/full", "No space left on device"),
    ("PYTHONUNBUFFERED= streamlearn version >/dev/full", "standard output cannot be written: No space left"),
    ("streamlearn train river:Phishing -m preset:sensors -o file:out", "cannot be written (File too large)"),
    ("streamlearn replay river:Phishing -t e --db s.db", "s.db"),
    (
        "streamlearn backtest river:Phishing -m preset:classification --limit 60 --html out >/dev/null",
        "out cannot be written: File too large",
    ),
]


@pytest.mark.parametrize(("line", "said"), FULL)
def test_a_full_disk_is_one_sentence_exit_4_and_leaves_the_old_file(
    tmp_path: Path, line: str, said: str
) -> None:
    if "file:out" not in line:
        (tmp_path / "out").write_text("before")
    new = "" if "config init -o out" not in line else "rm out;"
    done = bash(f"{new} ulimit -f 2; {line}", tmp_path)
    assert (done.code, done.err.count("error: ")) == (4, 1), done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert [name for name in names(tmp_path) if name.startswith(".")] == []
    if (tmp_path / "out").is_file():
        assert (tmp_path / "out").read_text() == "before"


def test_serve_on_a_full_disk_is_one_sentence_and_exit_4(tmp_path: Path) -> None:
    """The records fit, the predictions do not."""
    feed = "streamlearn replay river:Shuttle -t events --db s.db --limit 4000 2>/dev/null; "
    done = bash(
        f"{feed} ulimit -f 400; streamlearn serve -i events --db s.db -m preset:classification", tmp_path
    )
    assert done.code == 4, done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "File too large" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    after = bash("streamlearn tail events --db s.db -o beginning | wc -l", tmp_path)
    assert after.out.strip() == b"4000"


@pytest.mark.parametrize(
    "line",
    [
        "streamlearn config init | true",
        "streamlearn --help | true",
        "streamlearn replay river:Shuttle --limit 4000 -t e --db s.db 2>/dev/null;"
        " streamlearn record -t e --db s.db | true",
        "mkfifo f; true <f & streamlearn config init -o f | cat",
    ],
)
def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path, line: str) -> None:
    done = bash(f"set -o pipefail; {line}", tmp_path)
    assert done.code in (0, 141), done.err  # 0: it was faster than its reader
    assert done.err == "" or done.err.startswith(("wrote f", "recorded")), done.err


def test_a_page_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    done = bash("streamlearn backtest river:Phishing -m preset:classification --html .", tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert ". is a folder: name a file in it" in done.err
