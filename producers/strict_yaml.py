"""Files that people write: read within limits, and YAML strictly into models, with a suggestion for a misspelt key."""

from __future__ import annotations

import difflib
import os
import stat
from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES: Final = 1024 * 1024  # of a configuration file
_DEEPEST: Final = 64  # levels of YAML
_LONGEST_NUMBER: Final = 64  # characters
_MOST_FAULTS: Final = 20  # that are named; the others are counted


class ConfigurationFileError(UsageError):
    """A configuration file is missing, not YAML, or says something that it may not say."""


_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML within limits in which no mapping says a key twice: silently keeping the last one hides a slip."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs have no types
            raise yaml.composer.ComposerError(None, None, f"more than {_DEEPEST} levels within each other", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401 - as the loader has it
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters, at most {_LONGEST_NUMBER}", node.start_mark
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a model that forbids unknown keys; else `ConfigurationFileError` with every fault."""
    return parse_yaml(read_file(path), model, origin=str(path))


def read_file(path: Path, *, name: str = "the file", hint: str = "", most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file; else `ConfigurationFileError`. It never waits for a writer, as a pipe would have it.

    Args:
        path: Where it is.
        name: What it is, for messages.
        hint: How to mend it, for messages.
        most_bytes: A longer one is refused.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits until somebody writes into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                fault = "it is no regular file"
            elif len(text := file.read(most_bytes + 1)) > most_bytes:
                fault = f"it is longer than {most_bytes:,} bytes"
            else:
                return text
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        fault = getattr(error, "strerror", None) or str(error)
    raise ConfigurationFileError(f"{name} {path} cannot be read: {fault}.{hint and ' '}{hint}")


def parse_yaml(text: bytes, model: type[Model], *, origin: str) -> Model:
    """As `read_yaml`, for bytes already read; `origin` names them in messages."""
    try:
        document = yaml.load(text, _UniqueKeys)  # noqa: S506 - it is the safe loader, only stricter
    except yaml.YAMLError as error:
        raise ConfigurationFileError(f"{origin} is not YAML: {error}") from error
    except Exception as error:  # whatever else it trips over, such as a date that no calendar has: it is unreadable
        raise ConfigurationFileError(f"{origin} is not YAML: {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationFileError(f"{origin} must hold a mapping at its top, not {type(document).__name__}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        every = error.errors(include_input=False)
        faults = "; ".join(
            _describe(fault["loc"], fault["type"], fault["msg"], model) for fault in every[:_MOST_FAULTS]
        )
        faults += f"; and {len(every) - _MOST_FAULTS:,} more" if len(every) > _MOST_FAULTS else ""
        raise ConfigurationFileError(f"{origin}: {faults}") from error


def suggest(word: str, words: list[str]) -> str:
    """A question that offers the nearest known word, or the list of them."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(words))}"


def _describe(location: tuple[str | int, ...], kind: str, message: str, model: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        key = str(location[-1])
        return f"unknown key `{key}` at {_place(location[:-1])}: {suggest(key, _keys_at(location[:-1], model))}"
    if kind == "missing":
        return f"`{location[-1]}` is missing at {_place(location[:-1])}"
    return f"{_place(location)}: {message}"


def _place(location: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the top"


def _keys_at(location: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int) or (_is_model(current) and part not in current.model_fields):
            continue  # a place in a list, or a key of a mapping: the model of its values was found one step before
        field = current.model_fields.get(part) if _is_model(current) else None
        current = _model_within(field.annotation) if field is not None else None
    return list(current.model_fields) if _is_model(current) else []


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _model_within(annotation: Any) -> Any:  # noqa: ANN401 - annotations have no common type
    if _is_model(annotation):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (model := _model_within(argument)) is not None:
            return model
    return None
