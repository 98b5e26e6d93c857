"""The literal way: the readable form of a snapshot through a text encoder's own tokeniser, and its pooled output out.

The encoder stays as others have trained it. What comes out is the mean over its tokens, as of sentence encoders
(Reimers and Gurevych, "Sentence-BERT", 2019), scaled to length √H like ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.pretrained import load_pretrained
from models.readable import LineLimits, Names, positions
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot

MOST_TOKENS: Final = 256
"""Of one text: what sentence encoders of MiniLM's kind were trained on."""
LIMITS: Final = LineLimits(recent=12, history=10, graph=14)
_SHARES: Final = {"customer": 0.25, "recent": 0.375, "history": 0.1875, "graph": 0.1875}
"""Of the tokens, so that one long basket does not leave the others without any."""
_BATCH_TOKENS: Final = 8_192


class TextEncoder(nn.Module):
    """Snapshots → embeddings, (N, H) float32, by reading them.

    Args:
        body: a Hugging Face encoder with its table of tokens.
        tokenizer: its own.
    """

    def __init__(self, body: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.body = body.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.hidden = int(body.config.hidden_size)
        padding = getattr(body.config, "pad_token_id", None) or 0
        places = getattr(body.config, "max_position_embeddings", MOST_TOKENS)
        self.most = min(MOST_TOKENS, places - (padding + 1 if body.config.model_type == "roberta" else 0))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.most)
        self._padding = padding
        self._room = self.most - tokenizer.num_special_tokens_to_add(is_pair=False)

    @classmethod
    def load(cls, name: str) -> TextEncoder:
        """From a folder or the hub, see :func:`models.pretrained.load_body`.

        Raises:
            ConfigError: no such encoder, or one without a tokenizer.json.
        """
        body = load_pretrained(name)
        path = Path(name).expanduser() / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path)) if path.parent.is_dir() else Tokenizer.from_pretrained(name)
        except Exception as error:  # the Rust side raises bare Exception
            raise ConfigError(
                f"{name} has no tokenizer.json that can be read ({error}): get it from the same place"
            ) from (error)
        if tokenizer.get_vocab_size() > body.get_input_embeddings().num_embeddings:
            raise ConfigError(f"the tokenizer.json of {name} has more tokens than the encoder: get both from one place")
        return cls(body, tokenizer)

    def text(self, snapshot: Snapshot, names: Names) -> str:
        """The readable form, each kind cut to its share: the newest and the heaviest stay."""
        said = []
        for kind, lines in positions(snapshot, names, LIMITS).items():
            if not lines:
                continue
            text = f"{kind}: {'. '.join(lines)}."
            offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
            most = int(_SHARES[kind] * self._room)
            if len(offsets) > most:
                text = text[offsets[-most][0] :] if kind in ("recent", "history") else text[: offsets[most - 1][1]]
            said.append(text)
        return " ".join(said)

    def forward(self, snapshots: Sequence[Snapshot], names: Names) -> Tensor:
        """N snapshots → (N, H) float32, on the body's device.

        Args:
            names: what the hashes in snapshots stand for.
        """
        tokens = self.tokenizer.encode_batch([self.text(snapshot, names) for snapshot in snapshots])
        ids = [encoded.ids for encoded in tokens]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        device = next(self.body.parameters()).device
        out = torch.zeros((len(ids), self.hidden), device=device)
        begin = 0
        while begin < len(order):
            end = begin + 1
            while end < len(order) and (end + 1 - begin) * len(ids[order[end]]) <= _BATCH_TOKENS:
                end += 1
            rows = order[begin:end]
            out[torch.tensor(rows, device=device)] = self._pooled([ids[row] for row in rows], device)
            begin = end
        return out

    def _pooled(self, ids: list[list[int]], device: torch.device) -> Tensor:
        longest = max(map(len, ids))
        padded = torch.tensor([row + [self._padding] * (longest - len(row)) for row in ids], device=device)  # (B, L)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)  # (B, L)
        with torch.inference_mode():
            states: Tensor = self.body(input_ids=padded, attention_mask=mask).last_hidden_state
        weight = mask[:, :, None].to(states.dtype)  # (B, L, 1)
        mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
        return nn.functional.normalize(mean.float(), dim=-1) * math.sqrt(self.hidden)
