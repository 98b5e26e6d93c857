from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.snapshots import hashes
from tokenizers import Tokenizer
from tokenizers import models as token_models

from models import tokenizer
from models.tokenizer import SPECIALS, UNK_ID, Vocabulary
from schemas import words
from schemas.errors import ConfigError, ModelRefused
from schemas.words import HASH_BYTES, hash_of, split, words_of

#: Pairs of words with one hash, found by trying; the last one is of a fixed word.
WIDE_PAIR = ("item:1342", "item:65806")
NARROW_AND_WIDE = ("cat:26803", "item:139052")
PLAIN_AND_WIDE = ("w47072", "item:99249")
FIXED_AND_WIDE = ("[GAP:90d]", "item:25186607")
PAIRS = [WIDE_PAIR, NARROW_AND_WIDE, PLAIN_AND_WIDE]

texts = st.text(max_size=60) | st.lists(
    st.sampled_from(["[SESSION]", "item:1", "coffee", "Dark", "##a", "[/SESSION]", "cat:frozen fish", "[PAD]"])
).map(" ".join)


def built(counts: dict[str, int], max_words: int = tokenizer.DEFAULT_WORDS) -> Vocabulary:
    return Vocabulary(tokenizer.build(counts, max_words))


def named(vocabulary: Vocabulary, *said: str) -> list[str]:
    """What a model makes of words that come to it as hashes."""
    return [vocabulary.names[row] for row in vocabulary.rows(hashes(*said))]


def known_as(found: Iterable[str]) -> dict[bytes, str]:
    return {hash_of(word): word for word in found}


def in_a_row(column: bytes, names: dict[bytes, str]) -> str:
    return " ".join(names[hashed] for hashed in split(column))


def test_every_fixed_word_is_held_and_padding_is_zero() -> None:
    vocabulary = worlds.vocabulary()
    assert vocabulary.names[:4] == ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
    assert all(vocabulary.row(word) is not None for word in words.FIXED)
    assert named(vocabulary, *words.FIXED) == list(words.FIXED)


def test_row_and_name_are_inverse() -> None:
    vocabulary = worlds.vocabulary()
    assert len(vocabulary) == len(vocabulary.names) == len(set(vocabulary.names))
    for number, name in enumerate(vocabulary.names):
        assert vocabulary.row(name) == number
        assert vocabulary.rows(hash_of(name)).tolist() == [UNK_ID if name in SPECIALS else number]


def test_unknown_words_have_the_row_of_unknown_words() -> None:
    vocabulary = worlds.vocabulary()
    assert vocabulary.row("item:no-such") is None
    assert named(vocabulary, "item:1", "item:no-such", "dark", "nosuch") == ["item:1", "[UNK]", "dark", "[UNK]"]
    assert vocabulary.rows(words.NOTHING).tolist() == [UNK_ID]
    assert vocabulary.rows(b"\xff" * HASH_BYTES).tolist() == [UNK_ID], "above every hash that is known"


def test_special_rows_cannot_be_said() -> None:
    assert named(worlds.vocabulary(), *SPECIALS) == ["[UNK]"] * 4


def test_no_words_are_no_rows() -> None:
    rows = worlds.vocabulary().rows(b"")
    assert (len(rows), rows.dtype) == (0, "uint16")


@given(
    st.lists(st.sampled_from([*worlds.vocabulary().names[len(SPECIALS) :], "item:99", "x", "[SESSION"]), max_size=40)
)
def test_rows_of_many_words_are_the_rows_of_each(said: list[str]) -> None:
    vocabulary = worlds.vocabulary()
    expected = [UNK_ID if (row := vocabulary.row(word)) is None else row for word in said]
    assert vocabulary.rows(hashes(*said)).tolist() == expected


def test_half_a_hash_is_no_word() -> None:
    with pytest.raises(ValueError):
        worlds.vocabulary().rows(b"\0" * (HASH_BYTES + 1))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("commoner", [0, 1])
def test_of_two_words_with_one_hash_the_commoner_has_it(pair: tuple[str, str], commoner: int) -> None:
    common, rare = pair[commoner], pair[1 - commoner]
    assert hash_of(common) == hash_of(rare)
    vocabulary = built({rare: 2, common: 3, "item:1": 1})
    assert named(vocabulary, common, rare, "item:1") == [common, common, "item:1"]
    assert vocabulary.row(rare) is None
    assert len(vocabulary) == len(SPECIALS) + len(words.FIXED) + 2, "it takes no room either"


def test_a_fixed_word_keeps_its_hash() -> None:
    fixed, other = FIXED_AND_WIDE
    assert hash_of(fixed) == hash_of(other)
    vocabulary = built({other: 1000, "item:1": 1})
    assert named(vocabulary, fixed, other) == [fixed, fixed]
    assert vocabulary.row(other) is None


def test_of_two_rows_with_one_hash_the_first_has_it() -> None:
    """As no vocabulary of ours is; one made elsewhere may be."""
    rows = {word: row for row, word in enumerate((*SPECIALS, *words.FIXED, *WIDE_PAIR))}
    vocabulary = Vocabulary(Tokenizer(token_models.WordLevel(rows, unk_token="[UNK]")))
    assert named(vocabulary, *WIDE_PAIR) == [WIDE_PAIR[0]] * 2


@given(texts)
def test_text_never_makes_a_structured_word(text: str) -> None:
    vocabulary = worlds.vocabulary()
    found = vocabulary.text(text)
    assert len(found) <= words.TEXT_WORDS
    assert UNK_ID not in found
    assert all(tokenizer.field_of(vocabulary.names[row]) == "" for row in found)
    assert [vocabulary.names[row] for row in found] == [word for word in words_of(text) if vocabulary.row(word)]


def test_text_is_of_the_same_words_as_a_timeline() -> None:
    vocabulary, text = worlds.vocabulary(), "Dark Roast, 250 g COFFEE"
    said = vocabulary.rows(words.Words().text(text, "c1"))
    assert [row for row in said.tolist() if row != UNK_ID] == vocabulary.text(text)
    assert [vocabulary.names[row] for row in vocabulary.text(text)] == ["dark", "roast", "coffee"]


@given(st.lists(st.sampled_from(["dark roast", "coffee", "soap", "bread week"]), max_size=4).map(" ".join))
def test_text_agrees_with_the_hugging_face_tokeniser(text: str) -> None:
    vocabulary, whole = worlds.vocabulary(), tokenizer._wrapped(Tokenizer.from_str(worlds.vocabulary().json()))
    expected = [i for i in whole(text, add_special_tokens=False)["input_ids"] if i != UNK_ID]
    assert vocabulary.text(text) == expected[: words.TEXT_WORDS]


def test_the_hugging_face_tokeniser_reads_a_sequence_back(tmp_path) -> None:
    vocabulary = worlds.vocabulary()
    (tmp_path / tokenizer.VOCABULARY_FILE).write_text(vocabulary.json())
    whole = tokenizer.load(tmp_path)
    said = worlds.timeline([0, 1, 12]).words + hashes("dark", "item:strange", "coffee")
    printed = in_a_row(said, known_as([*vocabulary.names, "item:strange"]))
    assert whole(printed, add_special_tokens=False)["input_ids"] == vocabulary.rows(said).tolist()


#: Plain words that are parts of others, names with spaces and one that begins like another.
_CLOSE: dict[str, int] = {
    "item": 9, "item:1": 8, "item:11": 7, "1": 6, "cat:frozen fish": 5, "frozen": 4, "fish": 3, "cat": 2, "page:a b": 1,
}  # fmt: skip
_STRANGE = ("item:111", "item:2", "cat:frozen", "cat:frozen fishes", "page:1", "page:item", "page:a", "evt:strange")


@given(st.lists(st.sampled_from([*_CLOSE, *words.FIXED[:3]]) | st.sampled_from(_STRANGE), max_size=12))
def test_a_printed_timeline_reads_as_it_was(said: list[str]) -> None:
    """But for an unknown word of several parts: each of them is read, as nothing says that they are one."""
    assume(("cat:frozen", "fish") not in itertools.pairwise(said))  # nor that these are two
    vocabulary = close()
    column = hashes(*said)
    printed = in_a_row(column, known_as([*_CLOSE, *_STRANGE, *words.FIXED]))
    whole = tokenizer._wrapped(Tokenizer.from_str(vocabulary.json()))
    expected = [row for word, row in zip(said, vocabulary.rows(column).tolist(), strict=True) for _ in _parts(word)]
    assert whole(printed, add_special_tokens=False)["input_ids"] == expected


@functools.cache
def close() -> Vocabulary:
    return built(_CLOSE)


def _parts(word: str) -> list[str]:
    return [word] if word in _CLOSE else word.split()


def test_equal_counts_in_another_order_give_an_equal_vocabulary() -> None:
    counts = {f"item:{i}": i % 3 + 1 for i in range(50)} | {"evt:purchase": 9, "dark": 2, "tea": 2, "green": 1}
    one, two = built(counts, 200), built(dict(reversed(counts.items())), 200)
    assert one.json() == two.json()
    assert one.names == two.names
    assert built(counts | {"item:50": 1}, 200).names != one.names


def test_the_cap_keeps_frequent_items_and_narrow_fields() -> None:
    base = len(SPECIALS) + len(words.FIXED)
    counts = {f"item:{i}": 1000 - i for i in range(500)} | {"cat:rare": 1, "unknown:field": 10_000}
    counts |= {"item: ": 9_000, "item: 1": 9_000, "Dark": 9_000, "dark!": 9_000, "two words": 9_000, "x": 5, "y": 2_000}
    counts |= {"item:never": 0, "[SESSION]": 9_000, "[PAD]": 9_000}
    vocabulary = built(counts, base + 22)
    assert len(vocabulary) == base + 22
    assert set(vocabulary.names[base:]) == {"cat:rare", "y", *(f"item:{i}" for i in range(20))}
    whole = built(counts)
    assert {"x", "item:499"} <= set(whole.names)
    assert len(whole) == base + 503, "none but words of known fields, plain words as texts are split, and counted ones"


def test_narrow_fields_take_half_of_the_room_at_most() -> None:
    base = len(SPECIALS) + len(words.FIXED)
    counts = {f"cat:{i}": 1 for i in range(50)} | {f"item:{i}": 9 for i in range(50)}
    chosen = built(counts, base + 20).names[base:]
    assert sum(name.startswith("cat:") for name in chosen) == 10


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("item:42", "item"), ("cat:frozen fish", "cat"), ("page:a:b", "page"), ("coffee", ""), ("7", ""),
        ("Coffee", None), ("two words", None), ("a-b", None), ("item:", None), ("item: 1", None), (":x", None),
        ("", None),
    ],
)  # fmt: skip
def test_fields(word: str, field: str | None) -> None:
    assert tokenizer.field_of(word) == field


@pytest.mark.parametrize("size", [0, 10, 65_536])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="max_words"):
        tokenizer.build({}, max_words=size)


def test_the_largest_vocabulary_has_rows_of_two_bytes() -> None:
    vocabulary = built({f"item:{i}": 1 for i in range(70_000)}, tokenizer.MAX_VOCABULARY)
    assert len(vocabulary) == tokenizer.MAX_VOCABULARY
    last = vocabulary.names[-1]
    assert vocabulary.rows(hash_of(last)).tolist() == [tokenizer.MAX_VOCABULARY - 1]


def test_broken_files_are_refused(tmp_path) -> None:
    with pytest.raises(ModelRefused, match="cannot be read"):
        Vocabulary.load(tmp_path)
    (tmp_path / tokenizer.VOCABULARY_FILE).write_text("{}")
    with pytest.raises(ModelRefused, match="not a tokeniser"):
        Vocabulary.load(tmp_path)
    (tmp_path / tokenizer.VOCABULARY_FILE).write_bytes(b"\xff")
    with pytest.raises(ModelRefused, match="cannot be read"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((*SPECIALS, *words.FIXED[1:]), r"lacks \[SESSION\] and 0 more"),
        ((*reversed(SPECIALS), *words.FIXED), "must begin with"),
    ],
)
def test_vocabularies_that_no_timeline_could_use_are_refused(rows: tuple[str, ...], message: str) -> None:
    model = token_models.WordLevel({word: row for row, word in enumerate(rows)}, unk_token="[UNK]")
    with pytest.raises(ModelRefused, match=message):
        Vocabulary(Tokenizer(model))


def test_rows_with_a_hole_are_refused() -> None:
    rows = {word: row for row, word in enumerate((*SPECIALS, *words.FIXED))} | {"item:1": 999}
    with pytest.raises(ModelRefused, match="must run from 0"):
        Vocabulary(Tokenizer(token_models.WordLevel(rows, unk_token="[UNK]")))
