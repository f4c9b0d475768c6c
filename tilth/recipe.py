"""Recipes: YAML read into pydantic models, with mistakes told in one line.

A recipe is a file, or the name of one that travels with the package. It may name a `base` that it changes: mappings are
merged key by key, a key set to null takes what the base had away. `--set a.b=1` changes one thing on top.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tilth.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(model: type[Model], name: str, package: str, settings: Sequence[str] = ()) -> Model:
    """The recipe of that path, or of that name in `package`, as `model`, with each `key=value` setting applied."""
    return changed(model, _read(name, package, ()), settings, name)


def changed(model: type[Model], values: Mapping[str, Any], settings: Sequence[str], name: str) -> Model:
    """`values` as `model`, with each `key=value` of `settings` applied; `name` is for error messages."""
    values = copy.deepcopy(dict(values))
    for setting in settings:
        _apply(values, setting)
    return validated(model, values, name)


def shipped(package: str) -> list[str]:
    """Names of the recipes that travel with the package."""
    names = (entry.name for entry in resources.files(package).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def source(name: str, package: str) -> str:
    """The text of a shipped recipe."""
    if name not in shipped(package):
        raise RecipeError(
            f"recipe {name}: no such recipe; there are {', '.join(shipped(package))}, or name a .yaml file"
        )
    return (resources.files(package) / f"{name}.yaml").read_text(encoding="utf-8")


def validated(model: type[Model], values: Mapping[str, Any], name: str) -> Model:
    """`values` as `model`; the first mistake as a RecipeError that says where it is and what would be right."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"recipe {name}: {_explain(model, error)}") from error


def _read(name: str, package: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise RecipeError(f"recipe {name}: its base leads back to itself")
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    elif name in shipped(package):
        text = (resources.files(package) / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise RecipeError(
            f"recipe {name}: no such recipe; there are {', '.join(shipped(package))}, or name a .yaml file"
        )
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {name}: holds a {type(values).__name__} where a mapping of sections is expected")
    base = values.pop("base", None)
    if base is None:
        return values
    relative = path.parent / str(base)
    base = str(relative) if path.suffix and relative.is_file() else str(base)
    return _merged(_read(base, package, (*seen, name)), values)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RecipeError(f"--set {setting}: expected key=value, for instance extract.timeout=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {setting}: {text!r} is not a YAML value") from error
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {setting}: {part} is a value, not a section")
        values = inner
    if value is None:
        values.pop(path[-1], None)
    else:
        values[path[-1]] = value


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys(model, first["loc"][:-1]), n=1, cutoff=0.5)
        return f"unknown key {where}" + (f"; did you mean {near[0]}?" if near else "")
    if first["type"] == "tuple_type":
        return f"{where}: expected a list, for instance [{first['input']}]"
    found = first.get("input")
    shown = "" if isinstance(found, dict | list) else f", not {found!r}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{shown}" if where else message


def _keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the model that stands at `path` inside `model`."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation if part in here.model_fields else None
        else:  # dict[str, X], list[X], X | None: the model inside it
            here = next((a for a in get_args(here) if isinstance(a, type) and issubclass(a, BaseModel)), here)
        models = [a for a in get_args(here) if isinstance(a, type) and issubclass(a, BaseModel)]
        if type(None) in get_args(here) and models:
            here = models[0]
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        here = next((a for a in get_args(here) if isinstance(a, type) and issubclass(a, BaseModel)), None)
    return [field.alias or name for name, field in here.model_fields.items()] if here else []
