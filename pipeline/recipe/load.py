"""Reads recipes: a YAML file, the file it extends, and `dotted.key=value` overrides, checked against `schema`."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ...data.errors import UserError
from .presets import PRESETS
from .schema import Recipe

logger = logging.getLogger(__name__)

# Keys by their name up to version 0.1 -> their name now.
RENAMED = {
    ("curriculum", "steps_per_stage"): "steps_per_level",
    ("curriculum", "last_stage_at"): "last_level_at",
    ("curriculum", "last_stage_trainer"): "last_level_trainer",
}

# Values of `rl.estimator` by their name up to version 0.1 -> their name now.
RENAMED_ESTIMATORS = {
    "score": "score_function",
    "score_rsqrt_d": "score_function_rsqrt_d",
    "score_mean": "score_function_mean",
}


class RecipeError(UserError):
    """A recipe that cannot be run as written."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-5 as a number (YAML 1.1 wants 1.0e-5) and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies `dotted.key=value` overrides; values are YAML.

    A recipe with `extends: other.yaml`, a path relative to its own, holds only what differs from the other.

    Raises:
        RecipeError: Missing file, YAML that does not parse, unknown key, wrong type, or a bad override.
    """
    path = Path(path).expanduser()
    values = read_values(path)
    for override in overrides:
        _apply(values, override)
    return parse_recipe(values, str(path))


def read_values(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a recipe file, merged over the mapping of the file that it extends.

    Args:
        readers: The files whose `extends` led to this one.

    Raises:
        RecipeError: Missing file, YAML that does not parse, or files that extend each other.
    """
    if not path.is_file():
        raise RecipeError(_missing_file(path))
    if path.resolve() in readers:
        raise RecipeError(f"{path} extends itself, by way of {', '.join(map(str, readers))}. Remove one `extends`.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of recipe keys, it holds {type(values).__name__}.")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"{path}: extends={base!r} must be the path of a recipe, relative to this one.")
    return _merged(read_values(path.parent / Path(base).expanduser(), (*readers, path.resolve())), values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merges two mappings, section by section. Where both have a value, that of `above` holds."""
    both = {
        key: _merged(below[key], value) if isinstance(below.get(key), dict) and isinstance(value, dict) else value
        for key, value in above.items()
    }
    return {**below, **both}


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Makes a recipe of a mapping. A preset fills in the keys that the mapping leaves out.

    Args:
        where: Names the mapping in messages.

    Raises:
        RecipeError: Unknown key or preset, or wrong type.
    """
    values = _with_new_names(values, where)
    curriculum = values.get("curriculum")
    preset = curriculum.get("preset") if isinstance(curriculum, dict) else None
    if preset is not None:
        if preset not in PRESETS:
            raise RecipeError(f"{where}: unknown curriculum.preset {preset!r}{nearest(str(preset), list(PRESETS))}")
        values = _merged(PRESETS[preset], values)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(_explain(item) for item in error.errors()) + ".") from None


def _with_new_names(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Replaces names of version 0.1 by those of this version, each with a warning.

    Raises:
        RecipeError: A key is there under both names.
    """
    found = dict(values)
    for (section, old), new in RENAMED.items():
        inside = found.get(section)
        if not isinstance(inside, dict) or old not in inside:
            continue
        if new in inside:
            raise RecipeError(f"{where}: {section}.{old} is the old name of {section}.{new}. Remove one of the two.")
        logger.warning("%s: %s.%s is called %s.%s now. Rename the key.", where, section, old, section, new)
        found[section] = {new if key == old else key: value for key, value in inside.items()}
    rl = found.get("rl")
    if isinstance(rl, dict) and rl.get("estimator") in RENAMED_ESTIMATORS:
        old, new = rl["estimator"], RENAMED_ESTIMATORS[rl["estimator"]]
        logger.warning("%s: rl.estimator=%s is called %s now. Rename the value.", where, old, new)
        found["rl"] = {**rl, "estimator": new}
    return found


def _apply(values: dict[str, Any], override: str) -> None:
    """Sets the key of an override in a mapping; sections on the way are made."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"Override {override!r} is not of the form key=value, for example rl.trainer.max_steps=100.")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise RecipeError(f"The value of override {override!r} is no valid YAML: {said}") from error
    *parents, last = key.split(".")
    for parent in parents:
        child = values.get(parent)
        if child is None:
            child = values[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"Override {override!r}: {parent} is no section, it is {child!r}.")
        values = child
    values[last] = value


def _explain(item: Any) -> str:
    """One pydantic error in words. For an unknown key it names the nearest known one."""
    location = [part for part in item["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    name = ".".join(map(str, location)) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"unknown key {name!r}{nearest(str(location[-1]), known)}"
    if item["type"] == "missing":
        return f"key {name!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    received = "" if item["type"] == "value_error" else f" (received {item['input']!r})"
    return f"{name}: {message}{received}"


def _fields_at(location: Sequence[str | int]) -> list[str]:
    """The keys of the section at a location, a path of keys and list indices."""
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a message: the nearest known name, or all of them if none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else f"; known here: {', '.join(sorted(known))}"


def _missing_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path(".")
    names = [str(other.relative_to(folder)) for other in folder.glob("*.yaml")]
    hint = nearest(path.name, names) if names else ""
    return f"No recipe at {path}{hint} `neuralese recipes list` shows the recipes that come with the package."
