"""Arbitrary snapshots of one customer, and sizes of what an encoder is shown of them."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.snapshots import hashes, recent

from models.sequence import SequenceSize
from schemas.graph import EDGE_TYPES
from schemas.snapshot import EDGE, SESSION, EdgeBlock, Session
from schemas.words import hash_of

NOW_MS = worlds.START_MS
NO_WORD = "item:nobody has seen it"
WORDS = (
    "evt:purchase", "evt:item_view", "chan:mail", "item:0", "item:1", "cat:coffee", "cat:soap", "camp:1", "dark",
    "[SESSION]", "[LATE]", NO_WORD,
)  # fmt: skip
word = st.sampled_from(WORDS)
hashed = word.map(lambda name: int.from_bytes(hash_of(name), "little"))
maybe = st.just(0) | hashed
at_s = st.integers(NOW_MS // 1000 - 400 * 86_400, NOW_MS // 1000)
events = st.lists(st.tuples(at_s, st.lists(word, max_size=5)), max_size=12).map(
    lambda found: recent((1000 * at, hashes(*said)) for at, said in sorted(found))
)
one_session = st.builds(
    Session, start_s=at_s, minutes=st.integers(0, 600), events=st.integers(0, 400),
    value=st.sampled_from([0.0, 12.5, -3.0, 1e6]), channel=maybe, local_hour=st.integers(0, 167),
    sessions=st.sampled_from([0, 1, 1, 1, 2, 255]), messages=st.integers(0, 255), redemptions=st.integers(0, 3),
    category=maybe, second_category=maybe, third_category=maybe, item=maybe, second_item=maybe,
)  # fmt: skip
# Not sorted: a late event stands where it came in.
history = st.lists(one_session, max_size=9).map(lambda found: b"".join(SESSION.pack(*one) for one in found))
one_edge = st.tuples(word, st.sampled_from([0.25, 1.0, 1.0, 3.0, 700.0]), st.integers(1, 255), st.integers(0, 200))
edges_of_type = st.lists(one_edge, max_size=7, unique_by=lambda edge: edge[0]).map(
    lambda found: b"".join(EDGE.pack(hash_of(name), *rest) for name, *rest in found)
)
edge_types = st.sampled_from([0, 1, 2, 13, len(EDGE_TYPES) - 1])
blocks = st.lists(
    st.builds(
        EdgeBlock,
        st.integers(NOW_MS - 90 * worlds.DAY_MS, NOW_MS),
        st.dictionaries(edge_types, edges_of_type, max_size=5),
    ),
    max_size=2,
).map(tuple)  # fmt: skip
snapshots = st.builds(
    lambda **said: msgspec.structs.replace(worlds.snapshot(), **said),
    recent=events, history=history, edges=blocks, attributes=st.lists(word, max_size=3).map(lambda w: hashes(*w)),
    edge_half_life_ms=st.sampled_from([28 * worlds.DAY_MS, 5 * worlds.DAY_MS]),
)  # fmt: skip
sizes = st.builds(
    SequenceSize, recent=st.sampled_from([0, 1, 5, 40]), history=st.sampled_from([0, 1, 4, 32]),
    graph=st.sampled_from([0, 1, 2, 5, 9, 60]), span_days=st.sampled_from([30, 366, 4_000]),
)  # fmt: skip
