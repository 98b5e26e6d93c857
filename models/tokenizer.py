"""The vocabulary: structured words counted from data, and sub-words for free text, in one tokenizer.json.

The file is what ``PreTrainedTokenizerFast.save_pretrained`` writes, so any Hugging Face tool reads it. Ids run
specials, fixed words, structured words, sub-words. The ingest role needs only :class:`FastLexicon`, which imports
neither torch nor transformers.

A structured word is looked up whole and matched exactly. Free text never goes through that path: its brackets and
colons are split off, so a search for ``[SESSION] item:5`` cannot forge a session or an item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenizers import AddedToken, Tokenizer
from tokenizers import models as token_models

from models import subwords
from schemas.errors import ConfigError, ModelRefused
from schemas.words import FIXED, SESSION, SESSION_END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, CLS, MASK = "[PAD]", "[UNK]", "[CLS]", "[MASK]"
SPECIALS: Final = (PAD, UNK, CLS, MASK)
PAD_ID, UNK_ID, CLS_ID, MASK_ID = range(4)

#: Fields with few values: they are worth more than one more rare item.
NARROW_FIELDS: Final = ("evt", "chan", "cat", "camp", "tmpl")
WIDE_FIELDS: Final = ("item", "offer", "page")
MAX_VOCABULARY: Final = 65_535
DEFAULT_WORDS: Final = 12_000
MAX_SUBWORDS: Final = 2_000
TEXT_IDS: Final = 6
TEXT_CACHE: Final = 50_000
TOKENIZER_FILE: Final = "tokenizer.json"
#: What ``AutoTokenizer`` needs besides, or it would add the special tokens of its own idea of BERT.
HF_TOKENIZER: Final = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": PAD,
    "unk_token": UNK,
    "cls_token": CLS,
    "mask_token": MASK,
}


def build(
    word_counts: Mapping[str, int], text_counts: Mapping[str, int], max_words: int = DEFAULT_WORDS
) -> PreTrainedTokenizerFast:
    """A tokeniser from counts. Equal counts give an equal tokeniser, whatever their order.

    Args:
        word_counts: structured words (``item:42``) and how often each occurs. Words of the fixed grammar are always
            in; words of no known field are left out.
        text_counts: free texts (titles, queries) and how often each occurs.
        max_words: size of the vocabulary. Narrow fields come first, up to half of the room; the rest goes to the
            most frequent words.

    Raises:
        ConfigError: ``max_words`` cannot hold the fixed words, or does not fit uint16.
    """
    base = [*SPECIALS, *FIXED]
    if not len(base) < max_words <= MAX_VOCABULARY:
        raise ConfigError(f"max_words is {max_words}; it must be above {len(base)} and at most {MAX_VOCABULARY}")
    room = max_words - len(base)
    pieces = subwords.learn(text_counts, min(MAX_SUBWORDS, room // 4))
    words = _choose(word_counts, room - len(pieces))

    vocabulary: dict[str, int] = {}
    for word in (*base, *words, *pieces):
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(
        token_models.WordPiece(vocabulary, unk_token=UNK, continuing_subword_prefix=subwords.CONTINUES)
    )
    tokenizer.normalizer = subwords.normalizer()
    tokenizer.pre_tokenizer = subwords.pre_tokenizer()
    # Added tokens are matched before the text is normalised and split, so `cat:frzn ice` and `item:AB` stay whole.
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIALS])
    tokenizer.add_tokens([AddedToken(word, normalized=False, single_word=word[0] != "[") for word in (*FIXED, *words)])
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, cls_token=CLS, mask_token=MASK
    )


def _choose(word_counts: Mapping[str, int], room: int) -> list[str]:
    fixed = set(FIXED)
    ranked = sorted(
        ((word, count) for word, count in word_counts.items() if count > 0 and word not in fixed),
        key=lambda item: (-item[1], item[0]),
    )
    narrow = [word for word, _ in ranked if _field(word) in NARROW_FIELDS][: room // 2]
    taken = set(narrow)
    fields = (*NARROW_FIELDS, *WIDE_FIELDS)
    rest = [word for word, _ in ranked if word not in taken and _field(word) in fields]
    return [*narrow, *rest[: room - len(narrow)]]


def _field(word: str) -> str:
    field, colon, value = word.partition(":")
    return field if colon and value and value == value.strip() else ""


class FastLexicon:
    """Words and texts to ids by lookup: what the ingest role uses for every event.

    Implements :class:`schemas.words.Lexicon`.

    Example:
        >>> lexicon = FastLexicon(build({"evt:purchase": 2}, {"dark roast": 1}))
        >>> lexicon.readable(lexicon.word("[SESSION]") + lexicon.word("evt:purchase") + lexicon.text("Dark!"))
        '[SESSION] evt:purchase dark'
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast | Tokenizer) -> None:
        backend: Tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer.backend_tokenizer
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._backend = backend
        self._names = [name for name, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
        _check(vocabulary, self._names)
        spec = json.loads(backend.to_str())
        whole = {token["content"] for token in spec.pop("added_tokens")}
        spec["added_tokens"] = []
        self._text = Tokenizer.from_str(json.dumps(spec))
        self._words = {word: vocabulary[word].to_bytes(2, "little") for word in whole}
        self._texts: dict[str, bytes] = {}
        digest = hashlib.blake2b("\0".join(self._names).encode(), digest_size=8)
        self._fingerprint = digest.hexdigest()

    @classmethod
    def load(cls, directory: str | Path) -> FastLexicon:
        """From a model directory.

        Raises:
            ModelRefused: the file is missing, is not a tokeniser, or lacks words that every vocabulary holds.
        """
        path = Path(directory) / TOKENIZER_FILE
        try:
            raw = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelRefused(f"{path} cannot be read ({error}); point to a directory made by training") from error
        return cls.from_json(raw, str(path))

    @classmethod
    def from_json(cls, raw: str, name: str = TOKENIZER_FILE) -> FastLexicon:
        """From the text of a tokenizer.json; ``name`` is for the message.

        Raises:
            ModelRefused: as in :meth:`load`.
        """
        try:
            backend = Tokenizer.from_str(raw)
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelRefused(f"{name} is not a tokeniser ({error}); train the model again") from error
        return cls(backend)

    def json(self) -> str:
        """The whole tokenizer.json."""
        text: str = self._backend.to_str(pretty=True)
        return text

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def size(self) -> int:
        """Words and pieces in the vocabulary."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Token of every id, in order."""
        return tuple(self._names)

    def word(self, word: str) -> bytes | None:
        """Two bytes for a word the vocabulary holds whole, None for one it does not."""
        return self._words.get(word)

    def text(self, text: str) -> bytes:
        """Sub-word ids of free text, at most six; unknown pieces are left out."""
        known = self._texts.get(text)
        if known is None:
            ids = [i for i in self._text.encode(text, add_special_tokens=False).ids if i != UNK_ID]
            known = b"".join(i.to_bytes(2, "little") for i in ids[:TEXT_IDS])
            if len(self._texts) >= TEXT_CACHE:
                self._texts.clear()
            self._texts[text] = known
        return known

    def readable(self, tokens: bytes) -> str:
        """The sequence as text, one session a line, sub-words joined.

        Args:
            tokens: uint16 little-endian ids, as in ``Snapshot.tokens``.

        Raises:
            ValueError: an odd number of bytes.
        """
        if len(tokens) % 2:
            raise ValueError(f"tokens are uint16, so their length is even; got {len(tokens)} bytes")
        ids = memoryview(tokens)
        names = (self._name(ids[at] | ids[at + 1] << 8) for at in range(0, len(tokens), 2))
        return "".join(_spaced(names)).strip()

    def _name(self, token_id: int) -> str:
        return self._names[token_id] if token_id < len(self._names) else UNK


def _spaced(names: Iterable[str]) -> Iterable[str]:
    at_line_start = True
    for name in names:
        if name.startswith(subwords.CONTINUES) and len(name) > 2 and not at_line_start:
            yield name[2:]
            continue
        if name == SESSION and not at_line_start:
            yield "\n"
            at_line_start = True
        yield name if at_line_start else " " + name
        at_line_start = False
        if name == SESSION_END:
            yield "\n"
            at_line_start = True


def _check(vocabulary: Mapping[str, int], names: list[str]) -> None:
    if not len(names) <= MAX_VOCABULARY or sorted(vocabulary.values()) != list(range(len(names))):
        raise ModelRefused(f"the vocabulary's ids must run from 0 to at most {MAX_VOCABULARY - 1}; build it again")
    if tuple(names[: len(SPECIALS)]) != SPECIALS:
        raise ModelRefused(
            f"the vocabulary must begin with {', '.join(SPECIALS)}; build it with models.tokenizer.build"
        )
    missing = [word for word in FIXED if word not in vocabulary]
    if missing:
        raise ModelRefused(f"the vocabulary lacks {missing[0]} and {len(missing) - 1} more fixed words; build it again")


def load(directory: str | Path) -> PreTrainedTokenizerFast:
    """The Hugging Face tokeniser of a model directory, for people and tools.

    Raises:
        ModelRefused: as in :meth:`FastLexicon.load`.
    """
    return _wrapped(Tokenizer.from_str(FastLexicon.load(directory).json()))
