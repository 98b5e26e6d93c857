"""Hashed words as text again, for tests that say what a timeline should tell."""

from __future__ import annotations

from schemas.words import HASH_BYTES, Words, hash_of, split, words_of


class Reader(Words):
    """Words that remember every word they hashed, whoever said it, and read them back."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[bytes, str] = {}

    def page(self, page: str, customer_id: str) -> bytes:
        return self._known(f"page:{page}", super().page(page, customer_id))

    def text(self, text: str, customer_id: str | None = None) -> bytes:
        for word in words_of(text):
            self._known(word, hash_of(word))
        return super().text(text, customer_id)

    def read(self, hashes: bytes) -> list[str]:
        """The words of a sequence."""
        for word in self.take_new():
            self._known(word, hash_of(word))
        assert len(hashes) % HASH_BYTES == 0
        return [self._names[one] for one in split(hashes)]

    def _known(self, word: str, hashed: bytes) -> bytes:
        self._names[hashed] = word
        return hashed
