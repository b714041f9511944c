"""YAML configuration, read strictly into pydantic models, with a suggestion for every misspelt key."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

Model = TypeVar("Model", bound=BaseModel)


class ConfigurationFileError(UsageError):
    """A configuration file is missing, not YAML, or says something that it may not say."""


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which no mapping says the same key twice: silently keeping the last one hides a slip."""

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
    try:
        return parse_yaml(path.read_bytes(), model, origin=str(path))
    except OSError as error:
        raise ConfigurationFileError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_yaml(text: bytes, model: type[Model], *, origin: str) -> Model:
    """As `read_yaml`, for bytes already read; `origin` names them in messages."""
    try:
        document = yaml.load(text, _UniqueKeys)  # noqa: S506 - it is the safe loader, only stricter
    except yaml.YAMLError as error:
        raise ConfigurationFileError(f"{origin} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationFileError(f"{origin} must hold a mapping at its top, not {type(document).__name__}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(_describe(fault["loc"], fault["type"], fault["msg"], model) for fault in error.errors())
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
