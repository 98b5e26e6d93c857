"""The registry of roles: what is in the folder is in it, and what it says of a role is so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from schemas.topics import TOPICS
from streams.agents import registry
from streams.agents.registry import ROLES, STATEFUL, RoleEntry
from streams.core.customer import CustomerRecord
from streams.inspect import render
from streams.runtime.runner import Role
from streams.stateful.role import StatefulRole

ROOT = Path(__file__).parents[3]
ENTRIES = [pytest.param(entry, id=entry.name) for entry in ROLES.values()]


def _class_of(entry: RoleEntry) -> Any:
    """What ``build`` of the role's file says that it returns."""
    return get_type_hints(import_module(f"streams.agents.{entry.name}").build)["return"]


def test_a_role_is_one_file_and_one_entry() -> None:
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")} - {"__init__", "registry"}
    assert files == ROLES.keys()


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_says_what_its_file_holds(entry: RoleEntry) -> None:
    role = _class_of(entry)
    assert role.name == entry.name
    assert set(role.topics) <= TOPICS.keys()
    assert issubclass(role, StatefulRole) == (entry.stored is not None)
    assert {name for name in vars(Role) if not name.startswith("_")} <= set(dir(role))


def test_state_has_its_topic_and_can_be_shown() -> None:
    changelogs = {entry.changelog for entry in ROLES.values() if entry.changelog is not None}
    assert changelogs == {topic.name for topic in TOPICS.values() if topic.is_changelog}
    for name, stored in STATEFUL.items():
        with pytest.raises(msgspec.DecodeError):
            render.value_of(f"{name}-changelog", b"c1", b"\xc1")
        assert issubclass(stored.record, msgspec.Struct)
    assert STATEFUL["ingest"].record is CustomerRecord


def test_every_role_is_described() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert [name for name in ROLES if not re.search(rf"^\| `?{name}`? \|", text, re.MULTILINE)] == []


def test_to_list_roles_brings_no_runtime() -> None:
    """`pulsegraph --help` and the lookups read the registry: they must not wait for torch or Faust."""
    code = (
        "import sys, streams.agents.registry; print(sorted({'torch', 'faust', 'confluent_kafka'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
