"""Reading a tree of msgspec structs from environment variables and a TOML table: names, meanings, values, complaints.

Knows nothing of the settings themselves; those are in :mod:`streams.settings.schema`. Not pydantic-settings: it reads
the variables that it knows and cannot refuse the others (its issue 384), and part of the tree is of the core, whose
structs are msgspec's.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from schemas.errors import ConfigError


class Secret:
    """Text that is never shown by accident: ``repr``, ``str``, logging and describing give ``***``."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "'***'" if self._text else "''"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a secret is not to be pickled or copied into a file")


class Field(msgspec.Struct, frozen=True):
    """One setting."""

    path: tuple[str, ...]
    env: str
    type: Any
    default: Any
    meaning: str

    @property
    def name(self) -> str:
        """As in the TOML file: ``ingest.checkpoint_ms``."""
        return ".".join(self.path)

    @property
    def is_secret(self) -> bool:
        return Secret in _alternatives(self.type)


def fields_of(
    struct: type[msgspec.Struct],
    *,
    env_prefix: str,
    limits: Mapping[str, Meta],
    path: tuple[str, ...] = (),
) -> Iterator[Field]:
    """Every leaf of the tree, depth first.

    Args:
        limits: by dotted name, for fields whose type carries none.
    """
    hints = get_type_hints(struct, include_extras=True)
    documented = field_docstrings(struct)
    for info in msgspec.structs.fields(struct):
        here = (*path, info.name)
        hint = hints[info.name]
        if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
            yield from fields_of(hint, env_prefix=env_prefix, limits=limits, path=here)
            continue
        name = ".".join(here)
        default = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
        if name in limits:
            hint = _Annotated(hint, limits[name])
        elif hint in (int, float):
            hint = _Annotated(hint, Meta(ge=0))
        meaning = documented.get(info.name, "")
        yield Field(here, env_prefix + "_".join(here).upper(), hint, default, meaning)


def _Annotated(hint: Any, meta: Meta) -> Any:  # noqa: N802 - stands for typing.Annotated with a computed argument
    from typing import Annotated

    return Annotated[hint, meta]


def parse(field: Field, value: Any, *, shown_as: str, from_text: bool) -> Any:
    """A value as the field's type.

    Args:
        shown_as: where the value came from, e.g. the variable's name.
        from_text: the value is text from the environment: ``"5"`` is a number, ``"a,b"`` a list, ``"none"`` None.

    Raises:
        ConfigError: names the source, the value (unless secret) and what is accepted.
    """
    if field.is_secret:
        return Secret(str(value))
    given = value
    if from_text:
        given = value = value.strip()
        kinds = _alternatives(field.type)
        if type(None) in kinds and value.lower() in ("", "none", "off"):
            return None
        if tuple in {get_origin(kind) for kind in kinds}:
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif dict in {get_origin(kind) for kind in kinds}:
            pairs = [part.partition("=") for part in value.split(",") if part.strip()]
            value = {name.strip(): number.strip() for name, _, number in pairs}
        elif bool in kinds:
            value = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower(), value)
    try:
        return msgspec.convert(value, field.type, strict=not from_text, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{shown_as}={given!r} is not accepted: {accepted(field)}. Meaning: {field.meaning}"
        ) from error


def accepted(field: Field) -> str:
    """What may be written for a field, as a phrase."""
    return _phrase(field.type)


def suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def from_table(table: Mapping[str, Any], fields: list[Field], source: str) -> dict[tuple[str, ...], Any]:
    """Values of a TOML document, by path."""
    by_path = {field.path: field for field in fields}
    groups = {field.path[:depth] for field in fields for depth in range(1, len(field.path))}
    found: dict[tuple[str, ...], Any] = {}

    def walk(part: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for key, value in part.items():
            here = (*path, key)
            name = ".".join(here)
            if here in groups:
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{source}: {name}={value!r} is not a table; write [{name}]")
                walk(value, here)
            elif here not in by_path:
                hint = suggestion(name, [field.name for field in fields] + [".".join(group) for group in groups])
                raise ConfigError(f"{source}: there is no setting {name}{hint}; `pulsegraph settings` lists them all")
            elif by_path[here].is_secret:
                env = by_path[here].env
                raise ConfigError(f"{source}: {name} is a secret; give it in {env}, or a file's path in {env}_FILE")
            else:
                found[here] = parse(by_path[here], value, shown_as=f"{source}: {name}", from_text=False)

    walk(table, ())
    return found


def from_environment(
    env: Mapping[str, str], fields: list[Field], *, env_prefix: str, reserved: tuple[str, ...]
) -> dict[tuple[str, ...], Any]:
    """Values of environment variables, by path. Names that begin with the prefix and mean nothing are refused."""
    by_env = {field.env: field for field in fields}
    by_file = {f"{field.env}_FILE": field for field in fields if field.is_secret}
    found: dict[tuple[str, ...], Any] = {}
    for name in sorted(key for key in env if key.startswith(env_prefix)):
        if name in by_env:
            found[by_env[name].path] = parse(by_env[name], env[name], shown_as=name, from_text=True)
        elif name in by_file:
            field = by_file[name]
            if field.env in env:
                raise ConfigError(f"{field.env} and {name} are both set; keep one")
            try:
                text = Path(env[name]).read_text().rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{name}={env[name]!r} cannot be read: {error}") from error
            found[field.path] = Secret(text)
        elif not name.startswith(reserved):
            hint = suggestion(name, [*by_env, *by_file])
            raise ConfigError(f"there is no setting {name}{hint}; `pulsegraph settings` lists them all")
    return found


def build(struct: type[msgspec.Struct], values: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> Any:
    """The tree with ``values`` in place and defaults elsewhere."""
    hints = get_type_hints(struct)
    arguments: dict[str, Any] = {}
    for info in msgspec.structs.fields(struct):
        here = (*path, info.name)
        hint = hints[info.name]
        if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
            arguments[info.name] = build(hint, values, here)
        elif here in values:
            arguments[info.name] = values[here]
    return struct(**arguments)


def value_at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = getattr(tree, name)
    return tree


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError(f"no {kind.__name__}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, annotations removed; the type alone where it is none."""
    if hasattr(hint, "__metadata__"):
        return _alternatives(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _alternatives(part))
    return (hint,)


_NAMES: Final = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


def _phrase(hint: Any) -> str:
    from typing import Literal

    if hasattr(hint, "__metadata__"):
        bounds = [part for meta in hint.__metadata__ for part in _bounds(meta)]
        return " ".join([_phrase(hint.__origin__), *bounds])
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("none" if part is type(None) else _phrase(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return "texts with commas between them"
    if get_origin(hint) is dict:
        return "pairs like USD=0.92 with commas between them"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _bounds(meta: Meta) -> Iterator[str]:
    # 0 and 0.0 are equal, and so are the types that they bound: Python keeps the one that was written first.
    ge, gt, le = (None if bound is None else _written(bound) for bound in (meta.ge, meta.gt, meta.le))
    if ge is not None:
        yield f"from {ge}" if le is not None else f"of at least {ge}"
    if gt is not None:
        yield f"above {gt}"
    if le is not None:
        yield f"to {le}" if ge is not None else f"of at most {le}"
    if meta.pattern is not None:
        yield f"matching {meta.pattern}"


def _written(bound: int | float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


@lru_cache(maxsize=32)
def field_docstrings(struct: type) -> dict[str, str]:
    """Field -> the string below it, as in the source: a struct does not keep it."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = " ".join(text.value.value.split())
    return found
