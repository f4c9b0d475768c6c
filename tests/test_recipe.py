"""A recipe is read as it was meant, or refused with one line that says what would be right."""

import pytest
from pydantic import BaseModel, ConfigDict

from tilth.errors import RecipeError
from tilth.recipe import changed, load_recipe


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: str
    min: float | None = None


class Reading(BaseModel):
    model_config = ConfigDict(extra="forbid")
    unit_bytes: int = 1


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    read: Reading = Reading()
    rules: dict[str, Rule] = {}


PACKAGE = "tilth.curate.recipes"


def load(path, *settings):
    return load_recipe(Recipe, str(path), PACKAGE, settings)


@pytest.fixture
def file(tmp_path):
    def write(text, name="own.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_settings_change_one_thing_and_keep_the_order_of_rules(file):
    path = file("rules:\n  b: {label: x, min: 1}\n  a: {label: y}\n")
    recipe = load(path, "rules.b.min=2", "read.unit_bytes=5", "rules.c={label: z}")
    assert recipe.rules["b"].min == 2
    assert recipe.read.unit_bytes == 5
    assert list(recipe.rules) == ["b", "a", "c"]


def test_a_base_is_merged_key_by_key_and_null_takes_away(file):
    file("rules:\n  a: {label: x, min: 1}\n  b: {label: y}\n", "first.yaml")
    path = file("base: first.yaml\nrules:\n  a: {min: 3}\n  b: null\n")
    recipe = load(path)
    assert recipe.rules == {"a": Rule(label="x", min=3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reed: {}\n", r"unknown key reed; did you mean read\?"),
        ("rules: {a: {lable: x}}\n", r"rules\.a"),
        ("rules: {a: {label: x, mim: 1}}\n", r"unknown key rules\.a\.mim; did you mean min\?"),
        ("read: {unit_byte: 1}\n", r"did you mean unit_bytes\?"),
        ("read: {unit_bytes: many}\n", r"read\.unit_bytes: .*integer.*'many'"),
        ("- a list\n", "holds a list"),
        ("read: [\n", "not YAML"),
        ("base: own.yaml\n", "leads back to itself"),
        ("base: missing\n", "no such recipe"),
    ],
)
def test_a_mistake_is_told_in_one_line(file, text, message):
    with pytest.raises(RecipeError, match=message) as told:
        load(file(text))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "setting", ["read", "=1", "read.unit_bytes.deep=1", "read..x=1", "read.unit_bytes=[", "rules.a.b.c=1"]
)
def test_a_setting_that_is_none_is_told_in_one_line(file, setting):
    with pytest.raises(RecipeError) as told:
        load(file("{}"), "read.unit_bytes=1", setting)
    assert "\n" not in str(told.value)


def test_a_missing_or_unreadable_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "bytes.yaml")


def test_the_values_given_are_left_as_they_were():
    values = {"read": {"unit_bytes": 1}}
    assert changed(Recipe, values, ["read.unit_bytes=2"], "x").read.unit_bytes == 2
    assert values == {"read": {"unit_bytes": 1}}
