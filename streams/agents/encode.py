"""encode: snapshots in, predictions out. Holds no customer state, so it can be killed, added or moved at will."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from models.inference import Predictor
from models.snapshot_columns import check
from schemas import codec
from schemas.codec import Headers
from schemas.deadletter import refuse
from schemas.errors import DeadLetter, InvalidField, Malformed
from schemas.model_versions import MODELS
from schemas.snapshot import ERASED_MS, SNAPSHOT_VERSION, Snapshot
from streams.core.batching import MicroBatcher, Waiting
from streams.core.erased import Erasures
from streams.core.recalibration import Recalibration
from streams.kafka.outbox import Outbox
from streams.runtime.clocks import Clocks
from streams.runtime.context import RoleContext
from streams.runtime.runner import Batch, Commit
from streams.serving.announcements import AnnouncementFollower
from streams.serving.catalog import CatalogFollower
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.entity_embeddings import EntityFeed
from streams.serving.model_loading import load_announced
from streams.serving.model_swap import ModelSwap, ServedModel, first_model
from streams.serving.news import News
from streams.serving.predict import Predictions
from streams.serving.records import Predict, Predicted
from streams.serving.refusals import CatalogRefusals
from streams.serving.tallies import TOPIC, RecalibrationFollower
from streams.telemetry.metrics import Metrics

logger: Final = logging.getLogger(__name__)

_COMMIT_EVERY_MS: Final = 250
_DELIVERY_TIMEOUT_S: Final = 60.0
_MAX_DIGITS: Final = 15
_decode: Final = codec.decoder(Snapshot)


class EncodeRole:
    """Micro-batches of the newest snapshots through the model, off the event loop.

    Args:
        check: raises InvalidField for a snapshot the model cannot read.
        healthy: raises what has broken beside the model; asked every tick.
        entities: says which entities' embeddings are to be sent; absent: none are.
        models: swaps another model in where one is ready; absent: none is ever.
        hand_over: called when partitions were taken away, once nothing of them is in work.
        queue_bound: fetching pauses while this many snapshots wait.
    """

    name = "encode"
    topics = ("session-snapshots",)

    def __init__(
        self,
        *,
        predict: Predict,
        check: Callable[[Snapshot], None],
        batcher: MicroBatcher,
        outbox: Outbox,
        metrics: Metrics,
        clocks: Clocks,
        healthy: Callable[[], None] = lambda: None,
        entities: EntityFeed | None = None,
        models: ModelSwap | None = None,
        hand_over: Callable[[], None] = lambda: None,
        queue_bound: int = 20_000,
    ) -> None:
        self._predict = predict
        self._check = check
        self._batcher = batcher
        self._outbox = outbox
        self._metrics = metrics
        self._monotonic_ms = clocks.monotonic_ms
        self._wall_ms = clocks.wall_ms
        self._healthy = healthy
        self._entities = entities
        self._models = models
        self._hand_over = hand_over
        self._publishing: asyncio.Task[None] | None = None
        self._assigned = False
        self._queue_bound = queue_bound
        self._pausing = False
        self._committer: Commit | None = None
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_ms = clocks.monotonic_ms()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._encoding: asyncio.Task[None] | None = None
        self._coalesced = 0
        self._refused = False
        self._erasures = Erasures()

    def bind(self, committer: Commit) -> None:
        self._committer = committer

    async def on_assigned(self, partitions: set[int]) -> None:
        self._next, self._committed = {}, {}
        self._assigned = True
        if self._entities is not None:
            self._entities.hold(partitions)

    async def on_revoked(self, partitions: set[int]) -> None:
        await self._join()
        self._assigned = False
        if self._publishing is not None:
            # Before the next owner sends: nothing of here may come behind it.
            publishing, self._publishing = self._publishing, None
            await publishing
        await self._commit(force=True)
        self._batcher.forget(partitions)
        self._hand_over()
        self._next = {}

    async def process(self, batch: Batch) -> None:
        now_ms = self._monotonic_ms()
        for record in batch.records:
            try:
                if record.value is None:
                    customer_id = _customer(record.key)
                    self._erasures.add(customer_id, _erased_ms(record.headers))
                    self._batcher.erase(customer_id, batch.partition, record.offset, now_ms)
                elif self._erasures.bring_back(snapshot := self._read(record.value)):
                    self._metrics.brought_back_total.inc()
                else:
                    self._batcher.add(snapshot, batch.partition, record.offset, now_ms)
            except DeadLetter as error:
                refused = refuse(error, batch.topic, batch.partition, record)
                self._outbox.send_all([refused])
                self._refused = True
                self._metrics.dead_letter(batch.topic, refused.reason)
        self._next[batch.partition] = batch.records[-1].offset + 1
        await self._pump()
        while len(self._batcher) > self._queue_bound:
            await self._join()  # for the batch in work, not for the whole queue
            await self._pump()

    async def idle(self) -> None:
        self._healthy()
        if self._models is not None and self._models.due:
            # In the encoder's thread: behind the batch in work, before the next one.
            await asyncio.get_running_loop().run_in_executor(self._thread, self._models.swap)
        await self._pump()
        await self._publish()
        await self._commit()

    async def stop(self) -> None:
        self._pausing = True
        running = [task for task in (self._encoding, self._publishing) if task is not None]
        if running:
            await asyncio.wait(running, timeout=10.0)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, value: bytes) -> Snapshot:
        try:
            snapshot: Snapshot = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Malformed(f"no snapshot: {error}") from None
        if snapshot.version != SNAPSHOT_VERSION:
            raise InvalidField(f"snapshot version {snapshot.version}, this worker knows {SNAPSHOT_VERSION}")
        self._check(snapshot)
        return snapshot

    async def _pump(self) -> None:
        """Keep the encoder busy while batches are ready; raises what encoding raised."""
        self._metrics.encode_queue(len(self._batcher), self._batcher.coalesced - self._coalesced)
        self._coalesced = self._batcher.coalesced
        if self._encoding is not None:
            if not self._encoding.done():
                return
            await self._join()
        if self._batcher.ready(self._monotonic_ms()):
            self._encoding = asyncio.create_task(self._encode())

    async def _publish(self) -> None:
        """Some of the entities' embeddings that are due, between two batches; raises what the last ones raised."""
        if self._entities is None or not self._assigned:
            return
        if self._publishing is not None:
            if not self._publishing.done():
                return
            publishing, self._publishing = self._publishing, None
            await publishing
        if self._entities.due:
            self._publishing = asyncio.create_task(self._publish_some(self._entities))

    async def _publish_some(self, entities: EntityFeed) -> None:
        records = await asyncio.get_running_loop().run_in_executor(self._thread, entities)
        self._outbox.send_all(records)
        self._metrics.published(records)
        await self._outbox.delivered(self._outbox.mark(), _DELIVERY_TIMEOUT_S)

    async def _join(self) -> None:
        """Wait for the batch in work; what it raised is raised here."""
        if self._encoding is not None:
            self._pausing = True
            encoding, self._encoding = self._encoding, None
            try:
                await encoding
            finally:
                self._pausing = False

    async def _encode(self) -> None:
        """Batches back to back until none is ready; a batch is delivered while the next one is computed."""
        loop = asyncio.get_running_loop()
        delivering: asyncio.Task[None] | None = None
        while self._batcher.ready(self._monotonic_ms()):
            batch = self._batcher.take(started_ms := self._monotonic_ms())
            erased = [entry.snapshot for entry in batch if isinstance(entry.snapshot, str)]
            snapshots = [entry.snapshot for entry in batch if not isinstance(entry.snapshot, str)]
            predicted = await loop.run_in_executor(self._thread, self._predict, snapshots, erased)
            self._outbox.send_all(predicted.records)
            self._observe(batch, predicted, started_ms)
            if delivering is not None:
                await delivering
            delivering = asyncio.create_task(self._deliver(batch, self._outbox.mark()))
            if self._pausing:
                break  # somebody waits; at least one batch was done, so whoever waits for room gets it
        if delivering is not None:
            await delivering

    async def _deliver(self, batch: list[Waiting], mark: int) -> None:
        await self._outbox.delivered(mark, _DELIVERY_TIMEOUT_S)
        self._batcher.done(batch)

    def _observe(self, batch: list[Waiting], predicted: Predicted, started_ms: int) -> None:
        now_ms, wall_ms = self._monotonic_ms(), self._wall_ms()
        late_ms = [
            # What is no event follows none: how long it waited here is what can be told.
            (seen.kind, wall_ms - seen.ingest_ts_ms if seen.kind == "event" else now_ms - entry.since_ms)
            for entry in batch
            if not isinstance(seen := entry.snapshot, str)
        ]
        seconds = (now_ms - started_ms) / 1000
        self._metrics.encoded(seconds, late_ms, predicted.records, predicted.words, predicted.unknown_words)

    async def _commit(self, force: bool = False) -> None:
        now_ms = self._monotonic_ms()
        if not force and now_ms - self._commit_ms < _COMMIT_EVERY_MS:
            return
        self._commit_ms = now_ms
        offsets: dict[tuple[str, int], int] = {}
        for partition, position in self._next.items():
            floor = self._batcher.floor(partition)
            offset = position if floor is None else floor
            if offset != self._committed.get(partition):
                offsets[self.topics[0], partition] = offset
        if self._refused:
            await self._outbox.delivered(self._outbox.mark(), _DELIVERY_TIMEOUT_S)
            self._refused = False
        if offsets and self._committer is not None and await self._committer.commit(offsets):
            self._committed |= {partition: offset for (_, partition), offset in offsets.items()}


def _customer(key: bytes | None) -> str:
    """Whom a null erases.

    Raises:
        Malformed: a key that no customer has.
    """
    try:
        if key:
            return key.decode()
    except UnicodeDecodeError:
        pass
    raise Malformed("a null without a customer's id as its key")


def _erased_ms(headers: Headers) -> int:
    """When the customer of a null was erased; -1 where an older release did not say."""
    for name, raw in headers or ():
        if name == ERASED_MS and raw and raw.isdigit() and len(raw) <= _MAX_DIGITS:
            return int(raw)
    return -1


def build(context: RoleContext) -> EncodeRole:
    """See :meth:`streams.agents.registry.RoleEntry.build`."""
    settings, mine, metrics = context.settings, context.settings.encode, context.metrics
    follower = AnnouncementFollower(context.client, context.prefix + MODELS, lambda value: models.announced(value))
    predictor = first_model(follower.newest(), settings, metrics)
    logger.info("model %s on %s: %s", predictor.version, predictor.device, predictor.embed.name)
    outbox = context.outbox(EncodeRole.name)
    # An outbox of its own: what the catalog refuses is sent by the follower's thread.
    refusals = CatalogRefusals(context.outbox("catalog"), metrics, context.clocks.wall_ms)
    entities = EntityFeed(predictor, lambda: catalog.current, mine.embedding_margin, settings.kafka.partitions)
    catalog = CatalogFollower(
        context.client, context.prefix + "catalog", refusals.tell, refusals.delivered, entities.tell
    )
    catalog.start()
    context.closing.callback(catalog.stop)

    def shown(model_version: str, head: str, kind: str, found: Recalibration) -> None:
        if model_version == models.served.predictor.version:
            metrics.recalibrates(head, kind, found)

    recalibrations = RecalibrationFollower(context.client, context.prefix + TOPIC, shown)

    def check_followers() -> None:
        catalog.check()
        recalibrations.check()

    batcher = MicroBatcher(mine.batch_size, mine.batch_age_ms, mine.coalesce)

    def serve(loaded: Predictor) -> ServedModel:
        feed, news = EmbeddingFeed(mine.embedding_margin), News(mine.prediction_margin)
        predictions = Predictions(
            loaded,
            catalog,
            settings.decide,
            context.clocks.wall_ms,
            feed,
            settings.core.channel_aliases,
            news,
            mine.prediction_margin,
            lambda: recalibrations.of(loaded.version),
        )
        return ServedModel(loaded, predictions, feed, news)

    models = ModelSwap(serve, lambda version: load_announced(version, settings), entities, predictor, metrics)
    if mine.recalibrate:
        recalibrations.start()
        context.closing.callback(recalibrations.stop)
    follower.start()
    context.closing.callback(follower.stop)
    for of, items in (
        ("encode queue", batcher.__len__),
        ("encode offsets open", batcher.open),
        ("embeddings sent", lambda: len(models.served.feed)),
        ("predictions sent", lambda: len(models.served.news)),
        ("matches sent", lambda: len(models.served.predictions.matches)),
    ):
        metrics.holds(of, items)
    return EncodeRole(
        predict=models,
        models=models,
        hand_over=models.hand_over,
        healthy=check_followers,
        entities=entities,
        check=check,
        batcher=batcher,
        outbox=outbox,
        metrics=metrics,
        clocks=context.clocks,
        queue_bound=max(mine.queue_bound, mine.batch_size),
    )
