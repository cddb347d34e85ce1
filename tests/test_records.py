"""Entries come back as they were written, and the digest tells any two lists of outputs apart."""

import hashlib

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
