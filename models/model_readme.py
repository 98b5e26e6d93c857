"""README.md of a model's folder: what Hugging Face calls a model card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from models.model import HeadReport, Model

README_FILE: Final = "README.md"


def readme(model: Model, version: str) -> str:
    """Front matter and text, of what training reported."""
    return "\n".join([*_front(model), *_about(model, version), *_reached(model), *_use(model)])


def _front(model: Model) -> Iterator[str]:
    yield "---"
    yield "library_name: pulsegraph"
    yield "pipeline_tag: feature-extraction"
    if model.report.encoder:
        yield f"base_model: {model.report.encoder}"
    yield "tags: [customer-embeddings, event-sequences, tabular-classification]"
    yield "---"


def _about(model: Model, version: str) -> Iterator[str]:
    report, config, size = model.report, model.encoder.config, model.encoder.size
    yield f"# pulsegraph {version}"
    yield ""
    yield "Customers' timelines in, one embedding a customer out, and what is predicted from it:"
    yield f"{', '.join(model.heads)}. Made by `pulsegraph train`."
    yield ""
    yield "| what | |"
    yield "|---|---|"
    yield f"| trained | {report.date or 'date unknown'}, on {report.device or 'a device unknown'}, seed {report.seed} |"
    yield f"| data | {report.data.source or 'source unknown'}: {report.outcomes:,} labelled snapshots |"
    yield f"| encoder | {config.model_type}, {_body(config)}{model.encoder.hidden} wide |"
    yield f"| sequences | at most {size.positions} positions, of {size.span_days} days |"
    yield f"| horizon of churn | {model.horizon_days} days |"
    yield f"| vocabulary | {len(model.vocabulary):,} words with a row of their own |"
    yield f"| began as | {report.base or report.encoder or 'weights that were drawn'} |"
    yield ""


def _body(config: Any) -> str:
    layers = getattr(config, "num_hidden_layers", None)
    return f"{layers} layers, " if layers else ""


def _reached(model: Model) -> Iterator[str]:
    heads = model.report.heads
    if not heads:
        return
    yield "## What it reached"
    yield ""
    yield "On outcomes that training did not see; in brackets the 95 % interval."
    yield ""
    yield "| task | AUC | outcomes |"
    yield "|---|---|---|"
    for name, head in heads.items():
        yield f"| {name} | {_auc(head)} | {head.model.rows:,} |"
    yield ""


def _auc(head: HeadReport) -> str:
    score = head.model
    if score.auc is None:
        return "unknown"
    bounds = (score.auc_low, score.auc_high)
    return f"{score.auc:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if None not in bounds else "")


def _use(model: Model) -> Iterator[str]:
    yield "## How to use it"
    yield ""
    yield "```python"
    yield "from models.inference import Predictor  # pip install the wheel of pulsegraph"
    yield ""
    yield 'embeddings = Predictor.load("this folder").encode(snapshots).embeddings'
    yield "```"
    yield ""
    yield "`snapshots` are `schemas.snapshot.Snapshot`, as the topic `session-snapshots` holds them. Each gives"
    yield f"{model.encoder.hidden} numbers, of length √{model.encoder.hidden}; compare vectors of one version only."
    yield "`examples/embed.py` of the repository does it with a catalog, and `pulsegraph worker` live."
    yield ""
    yield "`AutoModel.from_pretrained` reads the body, and nothing else: it takes `inputs_embeds`, which"
    yield "`input.safetensors` makes, and no ids. There is no tokenizer, since a timeline is not text: what"
    yield "`AutoTokenizer` returns here is empty. `vocabulary.json` says which words have a row."
    yield ""
