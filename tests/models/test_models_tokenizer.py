from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds
from tokenizers import Tokenizer

from models import subwords, tokenizer
from models.tokenizer import FastLexicon
from schemas import words
from schemas.errors import ConfigError, ModelRefused

texts = st.text(max_size=60) | st.lists(
    st.sampled_from(["[SESSION]", "item:1", "coffee", "Dark", "##a", "[/SESSION]", "cat:frozen fish", "[PAD]"])
).map(" ".join)


def ids(tokens: bytes) -> list[int]:
    return [int.from_bytes(tokens[at : at + 2], "little") for at in range(0, len(tokens), 2)]


def test_every_fixed_word_is_held_and_padding_is_zero() -> None:
    lexicon = worlds.lexicon()
    assert lexicon.names[:4] == ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
    assert all(lexicon.word(word) is not None for word in words.FIXED)


def test_word_and_name_are_inverse() -> None:
    lexicon = worlds.lexicon()
    for number, name in enumerate(lexicon.names):
        found = lexicon.word(name)
        assert found is None or ids(found) == [number]


def test_unknown_words_are_none() -> None:
    assert worlds.lexicon().word("item:no-such") is None
    assert worlds.lexicon().word("coffee") is None, "a sub-word is no structured word"


@given(texts)
def test_text_never_makes_a_structured_word(text: str) -> None:
    lexicon = worlds.lexicon()
    found = ids(lexicon.text(text))
    assert len(found) <= tokenizer.TEXT_IDS
    assert tokenizer.UNK_ID not in found
    assert all(lexicon.word(lexicon.names[i]) is None for i in found)
    assert lexicon.text(text) == b"".join(i.to_bytes(2, "little") for i in found), "the cache says the same"


@given(st.lists(st.sampled_from(["dark roast", "coffee", "soap", "bread week"]), max_size=4).map(" ".join))
def test_text_agrees_with_the_hugging_face_tokeniser(text: str) -> None:
    lexicon, whole = worlds.lexicon(), tokenizer._wrapped(Tokenizer.from_str(worlds.lexicon().json()))
    expected = [i for i in whole(text, add_special_tokens=False)["input_ids"] if i != tokenizer.UNK_ID]
    assert ids(lexicon.text(text)) == expected[: tokenizer.TEXT_IDS]


def test_the_hugging_face_tokeniser_reads_a_sequence_back(tmp_path) -> None:
    lexicon = worlds.lexicon()
    (tmp_path / "tokenizer.json").write_text(lexicon.json())
    whole = tokenizer.load(tmp_path)
    tokens = worlds.timeline([0, 1, 12])
    assert whole(lexicon.readable(tokens), add_special_tokens=False)["input_ids"] == ids(tokens)
    assert whole.save_pretrained(tmp_path / "again")
    assert FastLexicon.load(tmp_path / "again").fingerprint == lexicon.fingerprint


def test_readable_puts_sessions_on_lines() -> None:
    lexicon = worlds.lexicon()
    lines = lexicon.readable(worlds.timeline([1, 5]) + lexicon.text("dark roast")).split("\n")
    assert lines == [
        "[SESSION] [GAP:3d] [HOUR:18] evt:purchase cat:frozen fish item:1 price:p2 [/SESSION]",
        "[SESSION] [GAP:3d] [HOUR:18] evt:purchase cat:frozen fish item:5 price:p2 [/SESSION]",
        "dark roast",
    ]
    assert lexicon.readable(b"\xff\xff") == "[UNK]"
    with pytest.raises(ValueError, match="even"):
        lexicon.readable(b"\x01")


def test_equal_counts_in_another_order_give_an_equal_vocabulary() -> None:
    counts = {f"item:{i}": i % 3 + 1 for i in range(50)} | {"evt:purchase": 9}
    said = {"dark roast": 2, "tea time": 2, "green tea": 1}
    one = FastLexicon(tokenizer.build(counts, said, max_words=200))
    two = FastLexicon(tokenizer.build(dict(reversed(counts.items())), dict(reversed(said.items())), max_words=200))
    assert one.json() == two.json()
    assert one.fingerprint == two.fingerprint
    other = FastLexicon(tokenizer.build(counts | {"item:50": 1}, said, max_words=200))
    assert other.fingerprint != one.fingerprint


def test_the_cap_keeps_frequent_items_and_narrow_fields() -> None:
    base = len(tokenizer.SPECIALS) + len(words.FIXED)
    counts = {f"item:{i}": 1000 - i for i in range(500)} | {"cat:rare": 1, "unknown:field": 10_000, "item: ": 9, "x": 5}
    lexicon = FastLexicon(tokenizer.build(counts, {}, max_words=base + 21))
    assert lexicon.size == base + 21
    assert lexicon.word("cat:rare") is not None
    assert lexicon.word("item:19") is not None
    assert lexicon.word("item:20") is None
    assert lexicon.word("unknown:field") is None


@pytest.mark.parametrize("size", [0, 10, 65_536])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="max_words"):
        tokenizer.build({}, {}, max_words=size)


def test_broken_files_are_refused(tmp_path) -> None:
    with pytest.raises(ModelRefused, match="cannot be read"):
        FastLexicon.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefused, match="not a tokeniser"):
        FastLexicon.load(tmp_path)


@given(st.dictionaries(st.text(alphabet="abcd ", min_size=1, max_size=12), st.integers(1, 5), max_size=8))
def test_learned_pieces_are_distinct_bounded_and_independent_of_order(counts: dict[str, int]) -> None:
    pieces = subwords.learn(counts, 12)
    assert len(pieces) == len(set(pieces)) <= 12
    assert pieces == subwords.learn(dict(sorted(counts.items(), reverse=True)), 12)
