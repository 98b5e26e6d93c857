"""``pulsegraph publish``: have every encode worker serve another model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from

if TYPE_CHECKING:
    from schemas.model_versions import Announcement
    from streams.settings.schema import Settings

_TIMEOUT_S = 30.0


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "publish",
        "have every encode worker serve another model, while they run",
        "The model is validated as workers do it: hashes, format, horizon, the tasks that encode.required_tasks names, "
        "and what it says of its canary. A folder that lies elsewhere is copied into the model directory, where "
        "workers look for it. Then it is announced on the topic `models`. Workers load it beside the one that they "
        "serve and change between two batches; one that cannot serve it says so (pulsegraph_refused_models_total) and "
        "goes on.",
        "  pulsegraph publish .cache/model\n"
        "  pulsegraph publish candidates/2026-11-27-pg-0123456789abcdef --model /srv/model\n"
        "  pulsegraph publish --rollback",
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="folder of the model, or a model directory, of which the newest is taken (default: that of --model)",
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="announce the model again that was announced before the last one; once more, the one before that",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="model directory of workers (PULSEGRAPH_MODEL_DIR)")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import time

    from models import versions
    from schemas.codec import json_encode
    from schemas.errors import ConfigError
    from schemas.model_versions import KEY, MODELS, Announcement
    from streams.kafka.partitioning import partition_for
    from streams.kafka.reader import TopicReader
    from streams.serving.announcements import newest_announcement
    from streams.serving.model_loading import describe_version, load_model
    from streams.settings.schema import kafka_client_config
    from streams.sources.replay import OrderedProducer

    if args.rollback and args.directory:
        raise ConfigError("--rollback takes the model that was announced before: omit DIR")
    settings = settings_from(args, model_dir=args.model)
    client, topic = kafka_client_config(settings), settings.kafka.prefix + MODELS
    with TopicReader(client) as reader:
        partitions = reader.partitions(topic)
        value, _ = newest_announcement(reader, topic)
    last = _read(value)
    now_ms = int(time.time() * 1000)
    if args.rollback:
        if last is None:
            raise ConfigError("no model was announced yet: publish one")
        announcement = _back(last, now_ms, settings)
    else:
        folder = versions.current(args.directory or settings.model_dir).resolve()
        model = load_model(folder, settings)
        version = describe_version(folder, model)
        versions.install(folder, versions.directory_of(settings.model_dir))
        announcement = Announcement(at_ms=now_ms, serve=version) if last is None else last.then(version, now_ms)
    producer = OrderedProducer(settings.kafka.bootstrap, timeout_s=_TIMEOUT_S, config=client)
    producer.send(topic, KEY, json_encode(announcement), partition_for(KEY, partitions))
    producer.deliver()
    for line in describe(announcement):
        print(line)
    return 0


def describe(announcement: Announcement) -> list[str]:
    """What was announced, and what a rollback would bring."""
    serve = announcement.serve
    lines = [f"model {serve.model_version} ({serve.folder}) was announced to every encode worker"]
    if announcement.before:
        before = announcement.before[0]
        lines.append(f"  --rollback brings back {before.model_version} ({before.folder})")
    return lines


def _back(last: Announcement, now_ms: int, settings: Settings) -> Announcement:
    """The newest one before that can be served still; those that cannot are named and passed over.

    Raises:
        ConfigError: there is none.
    """
    from schemas.errors import ModelRefused
    from streams.serving.model_loading import load_announced

    while True:
        last = last.back(now_ms)
        try:
            load_announced(last.serve, settings)
        except ModelRefused as refused:
            print(f"pulsegraph publish: passed over: {refused}", file=sys.stderr)
        else:
            return last


def _read(value: bytes | None) -> Announcement | None:
    """The last announcement; where it cannot be read, a new history begins."""
    from schemas.model_versions import UNREADABLE, read_announcement

    try:
        return None if value is None else read_announcement(value)
    except UNREADABLE as error:
        print(f"pulsegraph publish: the last record of models is no announcement ({error})", file=sys.stderr)
        return None
