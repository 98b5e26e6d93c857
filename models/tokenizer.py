"""The vocabulary of a model: which hashes of words have a row of their own, in one file.

Snapshots hold hashes of words (:mod:`schemas.words`), whatever model reads them. A model knows some of these words, by
name, and gives each a row; all others are ``[UNK]``. The file has the format of ``tokenizer.json``, so the library
``tokenizers`` reads it, and not that name: with it ``AutoTokenizer`` would make ids of texts, which the body of a model
does not take. Rows run specials, fixed words, words by how often they occur.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers import models as token_models

from models.versions import current
from models.wide import Ints
from schemas.errors import ConfigError, ModelRefused
from schemas.words import FIXED, hash_of, words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, CLS, MASK = "[PAD]", "[UNK]", "[CLS]", "[MASK]"
SPECIALS: Final = (PAD, UNK, CLS, MASK)
PAD_ID, UNK_ID, CLS_ID, MASK_ID = range(4)

#: Fields with few values: they are worth more than one more rare item.
NARROW_FIELDS: Final = ("attr", "evt", "chan", "cat", "camp", "tmpl")
WIDE_FIELDS: Final = ("item", "offer", "page", "")
"""The last one is that of plain words."""
MAX_VOCABULARY: Final = 65_535
DEFAULT_WORDS: Final = 12_000
VOCABULARY_FILE: Final = "vocabulary.json"
AGAIN: Final = "train the model again"


def build(word_counts: Mapping[str, int], max_words: int = DEFAULT_WORDS) -> PreTrainedTokenizerFast:
    """A tokeniser from counts. Equal counts give an equal tokeniser, whatever their order.

    Args:
        word_counts: words (``item:42``, ``coffee``) and how often each occurs. Words of the fixed grammar are always
            in; words of no known field are left out, and of two with one hash the rarer.
        max_words: size of the vocabulary. Narrow fields come first, up to half of the room; the rest goes to the
            most frequent words.

    Raises:
        ConfigError: ``max_words`` cannot hold the fixed words, or does not fit uint16.
    """
    base = [*SPECIALS, *FIXED]
    if not len(base) < max_words <= MAX_VOCABULARY:
        raise ConfigError(f"max_words is {max_words}; it must be above {len(base)} and at most {MAX_VOCABULARY}")
    words = _choose(word_counts, max_words - len(base))
    vocabulary = {word: row for row, word in enumerate((*base, *words))}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIALS])
    # Added tokens are matched before the text is split, so that `cat:frzn ice` stays whole. No others: a plain word
    # `item` would be found in an unknown `item:99`.
    spaced = [word for word in words if len(word.split()) > 1]
    tokenizer.add_tokens([AddedToken(word, normalized=False, single_word=True) for word in spaced])
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, cls_token=CLS, mask_token=MASK
    )


def _choose(word_counts: Mapping[str, int], room: int) -> list[str]:
    hashes = {hash_of(word) for word in FIXED}
    ranked: list[str] = []
    for word, count in sorted(word_counts.items(), key=lambda item: (-item[1], item[0])):
        if count > 0 and (hashed := hash_of(word)) not in hashes:
            hashes.add(hashed)
            ranked.append(word)
    narrow = [word for word in ranked if field_of(word) in NARROW_FIELDS][: room // 2]
    taken = set(narrow)
    fields = (*NARROW_FIELDS, *WIDE_FIELDS)
    rest = [word for word in ranked if word not in taken and field_of(word) in fields]
    return [*narrow, *rest[: room - len(narrow)]]


def field_of(word: str) -> str | None:
    """``item`` of ``item:42``, nothing of a plain word; None where it is neither."""
    field, colon, value = word.partition(":")
    if not colon:
        return "" if [word] == words_of(word) else None
    return field if field and value and value == value.strip() else None


class Vocabulary:
    """Rows of words, by name and by hash.

    Example:
        >>> vocabulary = Vocabulary(build({"evt:purchase": 2, "dark": 1}))
        >>> rows = vocabulary.rows(hash_of("[SESSION]") + hash_of("evt:purchase") + hash_of("evt:strange"))
        >>> [vocabulary.names[row] for row in rows]
        ['[SESSION]', 'evt:purchase', '[UNK]']
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast | Tokenizer) -> None:
        backend: Tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer.backend_tokenizer
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._backend = backend
        self.names = tuple(name for name, _ in sorted(vocabulary.items(), key=lambda item: item[1]))
        """The word of every row."""
        _check(vocabulary, self.names)
        self._rows = vocabulary
        # Backwards, so that of two words with one hash the first has it; `build` makes no such two.
        rows = range(len(self.names) - 1, len(SPECIALS) - 1, -1)
        known = {int.from_bytes(hash_of(self.names[row]), "little"): row for row in rows}
        self.hashes = np.array(sorted(known), dtype=np.uint32)
        """Of all words but the special ones, sorted."""
        self.row_of = np.array([known[hashed] for hashed in sorted(known)], dtype=np.uint16)
        """Their rows."""

    @classmethod
    def load(cls, directory: str | Path) -> Vocabulary:
        """From a model directory.

        Raises:
            ModelRefused: the file is missing, is not a tokeniser, or lacks words that every vocabulary holds.
        """
        folder = current(Path(directory))
        path = folder / VOCABULARY_FILE
        try:
            raw = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelRefused(f"{path} cannot be read ({error}); point to a directory made by training") from error
        return cls.from_json(raw, str(path))

    @classmethod
    def from_json(cls, raw: str, name: str = VOCABULARY_FILE) -> Vocabulary:
        """From the text of the file; ``name`` is for the message.

        Raises:
            ModelRefused: as in :meth:`load`.
        """
        try:
            backend = Tokenizer.from_str(raw)
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelRefused(f"{name} is not a tokeniser ({error}); {AGAIN}") from error
        return cls(backend)

    def json(self) -> str:
        """The whole file."""
        text: str = self._backend.to_str(pretty=True)
        return text

    @cached_property
    def by_hash(self) -> dict[bytes, str]:
        """Hash → word, for what is read by people and by text encoders."""
        return {hash_of(name): name for name in reversed(self.names[len(SPECIALS) :])}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.names)

    def row(self, word: str) -> int | None:
        """Row of a word; None where it has none."""
        return self._rows.get(word)

    def text(self, text: str) -> list[int]:
        """Rows of the words of a free text, as far as they have any."""
        return [row for word in words_of(text) if (row := self._rows.get(word)) is not None]

    def rows(self, hashes: bytes) -> Ints:
        """Rows of hashed words, (N,) of uint16: ``[UNK]`` where a word has none.

        Args:
            hashes: uint32 little-endian each, as in :class:`schemas.snapshot.Recent`.
        """
        return self.find(np.frombuffer(hashes, dtype="<u4"))[0]

    def find(self, wanted: npt.NDArray[np.uint32]) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The same of hashes as numbers, and which of them have a row."""
        place = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        known = self.hashes[place] == wanted
        return np.where(known, self.row_of[place], np.uint16(UNK_ID)).astype(np.uint16), known


def _check(vocabulary: Mapping[str, int], names: tuple[str, ...]) -> None:
    if not len(names) <= MAX_VOCABULARY or sorted(vocabulary.values()) != list(range(len(names))):
        raise ModelRefused(f"the vocabulary's ids must run from 0 to at most {MAX_VOCABULARY - 1}; {AGAIN}")
    if names[: len(SPECIALS)] != SPECIALS:
        raise ModelRefused(f"the vocabulary must begin with {', '.join(SPECIALS)}; {AGAIN}")
    missing = [word for word in FIXED if word not in vocabulary]
    if missing:
        raise ModelRefused(f"the vocabulary lacks {missing[0]} and {len(missing) - 1} more fixed words; {AGAIN}")


def load(directory: str | Path) -> PreTrainedTokenizerFast:
    """The Hugging Face tokeniser of a model directory, for people and tools.

    Raises:
        ModelRefused: as in :meth:`Vocabulary.load`.
    """
    return _wrapped(Tokenizer.from_str(Vocabulary.load(directory).json()))
