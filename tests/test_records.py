"""Entries come back as they were written, and the digest tells any two lists of outputs apart."""

import hashlib
import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.journal import (
    CLAIM_KEY,
    GENESIS,
    Entry,
    Era,
    chain,
    decode_entry,
    encode_claim,
    encode_entry,
    journalled,
)
from streamlearn.core.records import Headers, Output, Range, Record, Skip
from streamlearn.core.turns import Turns, unpacked

ERA = Era(
    "genesis", {"event": {"id": "id"}}, "h", "v", 1, {"river": "0"}, {"t": ("i", 2)}, [("t", 1, 5)], "f"
)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(0, 0, GENESIS, change=ERA),
        Entry(7, 1, "ab" * 32, [Range("t", 0, 3, 9), Range("é", 1, 2**60, 2**60 + 1)], 6),
        Entry(8, 1, "cd" * 32, [Range("t", 0, 9, 10)], 1, [Skip("t", 0, 9, "learn", "raised")]),
    ],
)
def test_an_entry_comes_back_as_it_was_written(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry
    assert b'"seq":%d' % entry.seq in encode_entry(entry)


PLACES = st.sampled_from([("t", 0), ("t", 1), ("u", 0), ("t", 200)])


@given(
    st.lists(st.tuples(PLACES, st.sampled_from([0, 0, 0, 1, 130, 2**40]), st.integers(1, 300)), max_size=60)
)
def test_ranges_come_back_from_an_entry_however_partitions_take_turns(
    turns: list[tuple[tuple[str, int], int, int]],
) -> None:
    ends = {("t", 1): 2**55}
    ranges = []
    for place, left_out, count in turns:
        first = ends.get(place, 7) + left_out
        ends[place] = first + count
        ranges.append(Range(*place, first, first + count))
    entry = Entry(7, 1, "ab" * 32, ranges, 9)
    assert decode_entry(encode_entry(entry)) == entry


@pytest.mark.parametrize("partitions", [2, 8, 64])
def test_a_turn_takes_a_byte_or_two(partitions: int) -> None:
    """A range took about 22 and its topic's name."""
    rng = random.Random(5)
    even = [Range("sensors", n % partitions, n // partitions, n // partitions + 1) for n in range(2000)]
    ends, mixed = [0] * partitions, list[Range]()
    for _ in range(2000):
        index = rng.randrange(partitions)
        ends[index] += 1
        mixed.append(Range("sensors", index, ends[index] - 1, ends[index]))
    for ranges, most in ((even, 0.8), (mixed, 1.6 + 24 * partitions / 2000)):
        data = encode_entry(Entry(7, 1, "ab" * 32, ranges, 9))
        assert len(data) < most * len(ranges)
        assert data.startswith(b'{"format":3,')


def test_an_entry_of_ranges_that_are_few_or_go_back_is_for_people() -> None:
    few = [Range("t", n % 2, n // 2, n // 2 + 1) for n in range(16)]
    for ranges in (few, [*few, Range("t", 0, 0, 1)], [Range("t", n, 0, 1) for n in range(99)]):
        entry = Entry(7, 1, "ab" * 32, ranges, 9)
        assert encode_entry(entry).startswith(b'{"format":2,"seq":7,"era":1,"digest":"ab')
        assert b'"ranges":[["t",0,0,1],["t",1,0,1],' in encode_entry(entry)
        assert decode_entry(encode_entry(entry)) == entry


RUNS = zlib.compress(bytes([0, 1, 2, 1]))


@pytest.mark.parametrize(
    ("runs", "answer"),
    [
        (b"", "cut off"),
        (RUNS[:-3], "cut off"),
        (RUNS + b"x", "something follows"),
        (b"junk", "cannot be read"),
        (zlib.compress(bytes(1 << 25)), "too many"),
        (zlib.compress(bytes([0, 1, 2])), "end early"),
        (zlib.compress(bytes([0, 1, 3, 1])), "end early"),
        (zlib.compress(bytes([0, 1, 4, 1])), "name no partition"),
        (zlib.compress(bytes([0, 0x81])), "no end"),
        (zlib.compress(bytes([0, *[0x81] * 20, 1])), "no end"),
    ],
)
def test_turns_that_are_damaged_are_named(runs: bytes, answer: str) -> None:
    turns = Turns([("t", 0, 0), ("t", 1, 5)], runs)
    with pytest.raises(msgspec.ValidationError, match=answer):
        unpacked(turns)
    data = b'{"format":3,' + msgspec.json.encode(Entry(7, 1, "ab" * 32, turns=turns))[1:]
    with pytest.raises(msgspec.ValidationError, match=answer):
        decode_entry(data)


def test_a_claim_is_no_entry_and_what_is_neither_is_refused() -> None:
    claim = encode_claim("streamlearn.app.journal.0", 3)
    assert journalled(Record("t", 0, 0, 0, CLAIM_KEY, claim)) is None
    entry = Entry(0, 1, GENESIS)
    assert journalled(Record("t", 0, 0, 0, None, encode_entry(entry))) == entry
    for value in (claim, b"", None):
        with pytest.raises(msgspec.MsgspecError):
            journalled(Record("t", 0, 0, 0, None, value))


@pytest.mark.parametrize("data", [b"", b"{}", b'{"seq":"1","era":0,"digest":""}', b"\xff"])
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_entry(data)


FIELDS = st.sampled_from([None, b"", b"-", b"0:", b"1:a", b"1;", b"a"])
HEADERS = st.lists(st.tuples(st.sampled_from(["", "-", "a", "1:a"]), FIELDS), max_size=2).map(tuple)
OUTPUTS = st.lists(
    st.builds(Output, st.sampled_from(["dlq", "predictions"]), st.just(0), FIELDS, FIELDS, HEADERS),
    max_size=2,
)


@given(OUTPUTS, OUTPUTS)
def test_different_outputs_have_different_digests(one: list[Output], two: list[Output]) -> None:
    assert (chain(GENESIS, one) == chain(GENESIS, two)) == (one == two)


def test_a_digest_covers_everything_before_it_but_not_the_placement() -> None:
    output = Output("dlq", 0, b"k", b"v")
    assert chain(GENESIS, [output]) != chain(chain(GENESIS, []), [output])
    assert chain(GENESIS, [output]) == chain(GENESIS, [Output("dlq", 5, b"k", b"v")])


def test_a_digest_is_what_the_description_says() -> None:
    headers: Headers = (("h", None), ("é", b"x"))
    preimage = bytes.fromhex(GENESIS) + b"3:dlq" + b"-" + b"0:" + b"2;" + b"1:h-" + "2:é1:x".encode()
    expected = hashlib.blake2b(preimage, digest_size=32).hexdigest()
    assert chain(GENESIS, [Output("dlq", 0, None, b"", headers)]) == expected
