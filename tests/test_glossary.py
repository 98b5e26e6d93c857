"""One term for one idea: the glossary's terms are in use, and words that were given up stay away."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "models", "streams")
GLOSSARY = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
#: (term, meaning, module)
ROWS = re.findall(r"^\| (?!term|---)(.+?) \| (.+?) \| `(.+?)` \|$", GLOSSARY, re.MULTILINE)
#: Words that no identifier may hold, alone or between underscores, and the term that took their place.
RETIRED = {
    "grave": "tombstone",
    "graves": "tombstone",
    "bury": "tombstone",
    "buried": "tombstone",
    "overrule": "overwrite",
    "overruled": "overwrite",
    "intruder": "zombie write",
    "intruders": "zombie write",
    "let_pass": "fire_timers",
    "set_aside": "quarantine",
    "punctual": "late_before_ms",
    "punctual_from_ms": "late_before_ms",
    "judged": "with a pending label",
    "asked": "as_of_ms",
    "told": "reported",
    "foreign_snapshots": "unknown_words",
    "lexicon": "words, or the vocabulary of a model",
    "fewer": "has_late_opt_out",
    "epoch_writer": "checkpoint_writer",
    "end_epoch": "checkpoint",
}


def _words(path: Path) -> str:
    """The text of a file in lower case, with one space between words."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.read_text(encoding="utf-8"))
    return re.sub(r"[\W_]+", " ", text).lower()


TEXT = " ".join(
    _words(path)
    for path in sorted([
        *(found for package in PACKAGES for found in (ROOT / package).rglob("*.py")),
        *(found for found in (ROOT / "docs").glob("*.md") if found.name not in ("glossary.md", "log.md")),
    ])
)  # fmt: skip


def _identifiers(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg | ast.keyword):
            names.add(node.arg or "")
        elif isinstance(node, ast.alias):
            names |= {node.name.rpartition(".")[2], node.asname or ""}
    return names


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_the_glossary_is_read() -> None:
    assert len(ROWS) == len(re.findall(r"^\| (?!term|---)", GLOSSARY, re.MULTILINE)) > 50


@pytest.mark.parametrize(("term", "module"), [pytest.param(term, module, id=term) for term, _, module in ROWS])
def test_every_term_is_used(term: str, module: str) -> None:
    assert (ROOT / module).is_file()
    words = re.sub(r"\W+", " ", term).lower()
    assert re.search(rf"\b{words}(e?s|d)?\b", TEXT), f"{term!r} is in the glossary only"


def test_terms_are_explained_once() -> None:
    terms = [term for term, _, _ in ROWS]
    assert sorted(terms) == sorted(set(terms))


@pytest.mark.parametrize("package", PACKAGES)
def test_retired_words_stay_away(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}: say {RETIRED[word]!r}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in _identifiers(ast.parse(path.read_text(encoding="utf-8"))) | {path.stem}
        for word in RETIRED
        if re.search(rf"(^|_){word}(_|$)", _snake(name))
    }
    assert found == set()


def test_a_retired_word_is_found() -> None:
    tree = ast.parse("from a import Grave as b\ndef c(let_pass_ms): self.bury_it(set_aside=1)")
    names = {_snake(name) for name in _identifiers(tree)}
    assert {"grave", "let_pass_ms", "bury_it", "set_aside"} <= names
