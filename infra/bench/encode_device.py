"""The encoder on a GPU: what the way around the model costs there.

Batches of 512, for the sizes ``demo`` and ``cpu``: the body alone, in bfloat16 and with its input on the device
already; from packed arrays, as the worker embeds them; and from the bytes that Kafka holds, with everything that
:meth:`models.inference.Predictor.encode` does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import torch

from infra.bench.encode_data import TIMED, Recorded, sequences
from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns
from models.encoder import pool
from schemas import codec
from schemas.snapshot import Snapshot

BATCH: Final = 512
_BATCHES: Final = 40
_decode: Final = codec.decoder(Snapshot)

BODY, PACKED, BYTES = "the body alone, bfloat16", "from packed arrays", "from Kafka bytes"


class DeviceContest:
    """The ways to embed with a model of one size.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(self, size: str, recorded: Recorded, batches: list[list[Snapshot]], device: str) -> None:
        self._size = size
        self._device = device
        self._predictor = recorded.predictor(size, device=device)
        model = self._predictor.model
        self._packed = [sequences(model, batch) for batch in batches]
        self._stored = [[msgspec.msgpack.encode(snapshot) for snapshot in batch] for batch in batches]
        self._body: Any = copy.deepcopy(model.encoder.body).to(device, torch.bfloat16)
        with torch.inference_mode():
            self._input = [tensor.to(device, torch.bfloat16) for tensor in model.encoder.input(self._packed[0])]

    def name(self, way: str) -> str:
        return f"{self._size}: {way}"

    def contenders(self) -> dict[str, Callable[[], float]]:
        """By name, a run that returns snapshots a second."""
        runs: dict[str, Callable[[], float]] = {
            BODY: lambda: self._rate(self._body_alone, self._packed),
            PACKED: lambda: self._rate(self._predictor.embed, self._packed),
            BYTES: lambda: self._rate(self._from_bytes, self._stored),
        }
        return {self.name(way): run for way, run in runs.items()}

    def results(self, values: dict[str, list[float]]) -> list[Measured]:
        """Of the runs."""
        notes = {
            BODY: f"{BATCH} customers of {self._input[1].shape[1]} positions, on the device already",
            PACKED: f"{self._predictor.embed.name}, on {self._predictor.device}",
            BYTES: "decoded, checked, made sequences, embedded",
        }
        return [
            Measured(name=self.name(way), unit="snapshots/s", values=values[self.name(way)], note=note)
            for way, note in notes.items()
        ]

    @torch.inference_mode()
    def _body_alone(self, _batch: object) -> object:
        vectors, mask = self._input
        return pool(self._body(inputs_embeds=vectors, attention_mask=mask).last_hidden_state, mask)

    def _from_bytes(self, batch: list[bytes]) -> object:
        return self._predictor.encode([_decode(value) for value in batch])

    def _rate(self, way: Callable[[Any], object], batches: Iterable[object]) -> float:
        """Until the device has finished with the last one."""
        begin_s, count = time.perf_counter(), 0
        for batch in batches:
            way(batch)
            count += BATCH
        if self._device == "cuda":
            torch.cuda.synchronize()
        return count / (time.perf_counter() - begin_s)


def run(device: str, recorded: Recorded, options: Options, say: Say) -> Findings:
    """Of both sizes.

    Raises:
        ConfigError: the device is not there.
    """
    wanted = options.scaled(_BATCHES, 2) * BATCH
    snapshots = (recorded.snapshots * (wanted // len(recorded.snapshots) + 1))[:wanted]
    batches = [snapshots[at : at + BATCH] for at in range(0, wanted, BATCH)]
    contests = [DeviceContest(size, recorded, batches, device) for size in TIMED]
    contenders = {name: run for contest in contests for name, run in contest.contenders().items()}
    for contender in contenders.values():
        contender()  # what is prepared once is no part of a rate
    values = take_turns(contenders, options.rounds, say, unit="/s")
    return Findings(
        results=[result for contest in contests for result in contest.results(values)],
        targets=[
            Target(
                name=contest.name("from packed arrays / the body alone"),
                value=ratio(values[contest.name(PACKED)], values[contest.name(BODY)]),
                target=0.5,
            )
            for contest in contests
        ],
        versions={"device": torch.cuda.get_device_name() if device == "cuda" else device},
        left_out=["The heads, which stay on the CPU."],
    )
