"""Checkpoints that a person names: `file:DIR@latest` or `file:DIR`, `file:DIR@SEQ`, the path of one file.

Invariants:
- Nothing of a checkpoint is used before its seal was found right, and its model is restored by the
  unpickler that knows river alone, and the modules that the caller trusts by naming a model.
- What cannot be used is a `ConfigError` that says what would be right.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streamlearn.core.shard.snapshot import Header, Sections, load_learner, open_header, seal, unseal
from streamlearn.engine.checkpoints import BlobName
from streamlearn.engine.era import stated_spec
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, ConfigError
from streamlearn.log.folder_store import FolderStore, names_in, read_regular

TRAINED = "trained"
"""`Era.why` of a checkpoint that `train` wrote: it stands in no journal."""

_SYNTAX = "name it file:DIR@latest, file:DIR@SEQ, or by the path of one .ckpt file"


class Saved(NamedTuple):
    """A checkpoint that is whole. `name`: where it was found; `sha256` (hex) is over all of its bytes."""

    name: str
    sha256: str
    header: Header
    sections: dict[str, bytes]


def read_saved(where: str, key: str = "") -> Saved:
    """The checkpoint that `where` names, opened with the secret `key`. Raises `ConfigError`."""
    path = _checkpoint_path(where)
    try:
        return saved_from(str(path), read_regular(path), key)
    except OSError as error:
        raise ConfigError(f"the checkpoint {path} cannot be read: {error.strerror}") from error


def saved_from(name: str, data: bytes, key: str = "") -> Saved:
    """The checkpoint in `data`, called `name` in messages. Raises `ConfigError`."""
    try:
        header, sections = unseal(data, key.encode())
        stated_spec(header.under)
    except BadCheckpoint as reason:
        raise ConfigError(
            f"the checkpoint {name} must not be loaded: {reason}. Take another one, or give the [checkpoint]"
            " key it was written with"
        ) from reason
    return Saved(name, hashlib.sha256(data).hexdigest(), header, sections)


def model_in(saved: Saved, trusted: frozenset[str]) -> Any:
    """The river model of a checkpoint. `trusted`: see `core.shard.snapshot.trusted_by`. Raises
    `ConfigError`.
    """
    try:
        return load_learner(saved.sections, trusted).model
    except BadCheckpoint as reason:
        made_by = saved.header.under.config.get("model_name", "a model")
        raise ConfigError(
            f"the model in {saved.name} cannot be restored: {reason}. It was made by {made_by}: if classes of"
            " your own are in it and you trust them, name the model (use=, -m or [model] use), and have its"
            " module on the path"
        ) from reason


def write_trained(env: Env, where: str, header: Header, sections: Sections, key: str = "") -> str:
    """Write a trained checkpoint into the folder `where` (`file:DIR`), as the next number there. Returns
    how to name it. Raises `ConfigError` for a folder that is a service's own.
    """
    folder = trained_folder(where)
    store = FolderStore(env, folder)
    names = store.names()
    numbers = [int(name) for name in names if name.isdigit()]
    for name in names[-1:]:
        try:
            own = open_header(store.read(name), key.encode()).under.why != TRAINED
        except BadCheckpoint as reason:
            raise ConfigError(
                f"{folder} holds a checkpoint that cannot be read ({name}: {reason}): choose another folder"
            ) from reason
        if own:
            raise ConfigError(
                f"{folder} holds the checkpoints of a service, which would take a trained one among them for"
                " a loss of its journal: choose another folder with -o file:DIR"
            )
    seq = max(numbers, default=-1) + 1
    data = seal(msgspec.structs.replace(header, seq=seq), sections, key.encode())
    store.write(f"{seq:012d}", data)
    return f"file:{folder}@{seq}"


def trained_folder(where: str) -> Path:
    """DIR of `file:DIR`. Raises `ConfigError`."""
    kind, colon, folder = where.partition(":")
    if kind != "file" or not colon or not folder or "@" in folder:
        raise ConfigError(f"-o {where}: name a folder for the checkpoint, like file:trained")
    return Path(folder)


def _checkpoint_path(where: str) -> Path:
    if not where.startswith("file:"):
        if not Path(where).exists():
            raise ConfigError(f"there is no checkpoint {where!r}: {_SYNTAX}")
        return Path(where)
    named = where.removeprefix("file:")
    folder, separator, which = named.rpartition("@") if "@" in named else (named, "@", "latest")
    if not separator or not folder or not (which == "latest" or which.isdigit()):
        raise ConfigError(f"{where!r} names no checkpoint: {_SYNTAX}")
    location = _place_in(Path(folder))
    names = _by_entry(location)
    number = max(names, default=None) if which == "latest" else int(which)
    if number not in names:
        raise ConfigError(
            f"there is no checkpoint {which} in {location}; there are: {', '.join(map(str, names)) or 'none'}"
        )
    return location / f"{names[number]}.ckpt"


def _by_entry(folder: Path) -> dict[int, str]:
    """The names in a folder by the entry or number that they begin with, in order; of several that of the
    newest claim. Whether a journal names them is not known here.
    """
    matches = [
        (blob.seq, blob.claim, blob.number, name) if blob else (int(name), -1, -1, name)
        for name in names_in(folder)
        if (blob := BlobName.parse(name)) or name.isdigit()
    ]
    return {seq: name for seq, _, _, name in sorted(matches)}


def _place_in(folder: Path) -> Path:
    """Where the checkpoints lie: in the folder itself, or below, in `APP/SHARD`, as a service lays them."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}: {_SYNTAX}")
    if names_in(folder):
        return folder
    below = sorted({path.parent for depth in ("*/*.ckpt", "*/*/*.ckpt") for path in folder.glob(depth)})
    if not below:
        raise ConfigError(f"there is no checkpoint in {folder} yet: {_SYNTAX}")
    if len(below) > 1:
        matches = " or ".join(f"file:{location}@latest" for location in below[:5])
        raise ConfigError(f"{folder} holds the checkpoints of {len(below)} services: say which, {matches}")
    return below[0]
