"""What may happen to a simulated process, at a call of its environment or of a port."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streamlearn.core.records import SHARD
from streamlearn.errors import Unknown, Unreachable
from tests.simulator.memory_log import MemoryShardLog

if TYPE_CHECKING:
    from tests.simulator.world import Server, World

Fault = Callable[["World", "Server", str], bool]
"""Happens at this call and says True, raises what the call is to raise, or waits for another call."""


class Raises(Exception):
    """A fault that happens by an error of the call."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def is_killed(world: "World", server: "Server", call: str) -> bool:
    """`kill -9`."""
    server.killed = True
    return True


def is_stopped(world: "World", server: "Server", call: str) -> bool:
    """SIGTERM."""
    if server.process is None:
        return False
    server.process.stop()
    return True


def is_paused(world: "World", server: "Server", call: str) -> bool:
    """SIGSTOP, for less or more than a session of the group."""
    server.paused_until = world.scheduler.now + world.scheduler.random.choice([1.0, 15.0, 60.0])
    return True


def is_fenced(world: "World", server: "Server", call: str) -> bool:
    """A third process opens the shard, and dies before it has done anything."""
    MemoryShardLog(world.cluster, world.names, world.env, lambda: None, SHARD)
    return True


def is_expelled(world: "World", server: "Server", call: str) -> bool:
    """The group forgets its members: whoever asks next holds the shard."""
    world.cluster.members.clear()
    return True


def is_away(world: "World", server: "Server", call: str) -> bool:
    """The broker does not answer."""
    if not call.startswith(("log.", "shard.")) or call.endswith((".close", ".answer", ".next", ".between")):
        return False
    if call == "shard.publish":
        raise Raises(Unknown("the broker went away"))
    raise Raises(Unreachable("the broker went away"))


def has_no_answer(world: "World", server: "Server", call: str) -> bool:
    """The commit is made, and its answer is lost."""
    if call != "shard.publish.answer":
        return False
    raise Raises(Unknown("the answer was lost"))


def has_full_disk(world: "World", server: "Server", call: str) -> bool:
    """A checkpoint cannot be written."""
    if call != "store.half":
        return False
    raise Raises(OSError(28, "No space left on device"))


def is_slow(world: "World", server: "Server", call: str) -> bool:
    """This one call takes seconds."""
    server.paused_until = world.scheduler.now + 3.0
    return True


def has_its_input_recreated(world: "World", server: "Server", call: str) -> bool:
    """Somebody deletes the input topic, and makes it again with other events in it."""
    world.recreate_input()
    return True


HEALING: Final[dict[str, Fault]] = {
    "kill": is_killed,
    "stop": is_stopped,
    "pause": is_paused,
    "fence": is_fenced,
    "expel": is_expelled,
    "away": is_away,
    "no answer": has_no_answer,
    "full disk": has_full_disk,
    "slow": is_slow,
}
"""After any of these the service goes on by itself, and nothing is lost, repeated or wrong."""

ENDING: Final[dict[str, Fault]] = {**HEALING, "recreate": has_its_input_recreated}
"""After the last one the service stops, and nothing of the new topic is taken for something of the old."""
