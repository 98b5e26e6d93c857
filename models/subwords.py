"""Sub-words of free text, learned by byte-pair merges in a fixed order.

``tokenizers.trainers.WordPieceTrainer`` gives another vocabulary on every run (ties are broken by the order of a
randomly seeded hash map), and a vocabulary that moves would change every fingerprint. This is the same idea in plain
Python with ties broken by the pieces themselves; a few thousand words take about a second.

Source of the idea: Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units" (2016).
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from tokenizers import normalizers, pre_tokenizers

CONTINUES: Final = "##"
MAX_WORDS: Final = 6_000
MAX_ALPHABET: Final = 128

Pair = tuple[str, str]


def normalizer() -> normalizers.Normalizer:
    """Lower case, no accents, no control characters."""
    return normalizers.BertNormalizer(lowercase=True)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """White space and punctuation split words, so no free text can spell a structured word."""
    return pre_tokenizers.BertPreTokenizer()


def split_words(text_counts: Mapping[str, int]) -> Counter[str]:
    """Normalised words of the texts with their counts."""
    normal, pre = normalizer(), pre_tokenizer()
    words: Counter[str] = Counter()
    for text, count in text_counts.items():
        for word, _ in pre.pre_tokenize_str(normal.normalize_str(text)):
            words[word] += count
    return words


def _merged(left: str, right: str) -> str:
    return left + right.removeprefix(CONTINUES)


def learn(text_counts: Mapping[str, int], size: int) -> list[str]:
    """At most ``size`` pieces: the alphabet, most frequent first, then merges in the order they were made.

    Example:
        >>> learn({"tea tea tea": 1, "ten": 1}, 6)
        ['##e', 't', '##a', '##n', 'te', 'tea']
    """
    words = split_words(text_counts)
    common = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
    symbols: Counter[str] = Counter()
    for word, count in common:
        for position, symbol in enumerate(word):
            symbols[symbol if position == 0 else CONTINUES + symbol] += count
    ranked = sorted(symbols.items(), key=lambda item: (-item[1], item[0]))
    pieces = [symbol for symbol, _ in ranked[: min(size, MAX_ALPHABET)]]
    known = set(pieces)

    spelled: list[list[str]] = []
    weight: list[int] = []
    for word, count in common:
        spelling = [word[0], *(CONTINUES + symbol for symbol in word[1:])]
        if known.issuperset(spelling):
            spelled.append(spelling)
            weight.append(count)

    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, spelling in enumerate(spelled):
        for pair in itertools.pairwise(spelling):
            counts[pair] += weight[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(pieces) < size:
        count, pair = heapq.heappop(heap)
        if counts[pair] != -count or count == 0:
            continue  # a stale entry; the current count was pushed when it changed
        piece = _merged(*pair)
        if piece not in known:
            known.add(piece)
            pieces.append(piece)
        touched: set[Pair] = set()
        for index in where.pop(pair):
            old = spelled[index]
            new = _apply(old, pair, piece)
            for step, spelling in ((-weight[index], old), (weight[index], new)):
                for neighbours in itertools.pairwise(spelling):
                    counts[neighbours] += step
                    touched.add(neighbours)
                    if step > 0:
                        where[neighbours].add(index)
            spelled[index] = new
        for changed in touched:
            if counts[changed] > 0:
                heapq.heappush(heap, (-counts[changed], changed))
    return pieces


def _apply(spelling: list[str], pair: Pair, piece: str) -> list[str]:
    out: list[str] = []
    position = 0
    while position < len(spelling):
        if tuple(spelling[position : position + 2]) == pair:
            out.append(piece)
            position += 2
        else:
            out.append(spelling[position])
            position += 1
    return out
