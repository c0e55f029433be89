"""Overrides of a recipe: dotted or bare, one setting or a part, and refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.errors import UsageError
from cosup.training.recipe import load_recipe, parse_recipe
from tests.training.recipes import LEAST, refused, with_, written


def test_overrides_are_dotted_or_bare_with_dashes_or_not(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path),
        [
            ("data.passages", "[a, b]"),
            ("max-length", "77"),
            ("training.learning-rate", "2e-5"),
            ("per_device_train_batch_size", "3"),
            ("nsp-weight", "0.7"),
            ("objective.similarity", "inner_product"),
            ("generator", "other/model"),
            ("supervision", "nsp"),
            ("bf16", "true"),
        ],
    )
    assert (recipe.generator, recipe.supervision) == ("other/model", "nsp")
    assert (recipe.data.passages, recipe.data.max_length) == (("a", "b"), 77)
    assert recipe.objective == {"nsp_weight": 0.7, "similarity": "inner_product"}
    assert recipe.training == {"learning_rate": 2e-5, "per_device_train_batch_size": 3, "bf16": True}
    assert recipe.source["training"]["learning_rate"] == 2e-5


@pytest.mark.parametrize("name", ["save_strategy", "logging_strategy", "eval_strategy"])
def test_a_bare_no_is_a_strategy(name: str, tmp_path: Path) -> None:
    """YAML reads `--save_strategy no` as false."""
    recipe = load_recipe(written(tmp_path), [(name, "no")])
    assert recipe.training == {name: "no"}
    assert getattr(recipe.config(), name) == "no"


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setattr("cosup.training.config.find_spec", lambda name: None)
    assert refused(with_("training", report_to="wandb")) == (
        "report_to is 'wandb', which is not installed; pip install wandb"
    )
    assert parse_recipe(with_("training", report_to="none")).config().report_to == []


def test_the_last_override_counts(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path), [("seed", "1"), ("seed", "2")]).training == {"seed": 2}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning-rat", "1", "unknown setting '--learning_rat' (did you mean 'learning_rate'?)"),
        ("data.pasages", "x", "unknown setting '--data.pasages' (did you mean 'data.passages'?)"),
        ("training.temperature", "1", "unknown setting '--training.temperature' (did you mean"),
        ("dta.passages", "x", "unknown setting '--dta.passages' (did you mean 'data.passages'?)"),
        ("generator.name", "x", "unknown setting '--generator.name'"),
        ("seed", "[1", "--seed [1: the value is not valid YAML"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(written(tmp_path), [(key, value)])
    assert str(caught.value).startswith(message)


def test_a_whole_part_is_overridden_as_a_mapping(tmp_path: Path) -> None:
    path = written(tmp_path, with_("training", seed=1, max_steps=3))
    with pytest.raises(UsageError, match="unknown setting '--training'"):
        load_recipe(path, [("training", "{seed: 2}")])


def test_an_override_into_a_part_that_is_empty_or_wrong(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, {**LEAST, "training": None}), [("seed", "2")]).training == {"seed": 2}
    with pytest.raises(UsageError, match=r"--seed: 'training' in the recipe is \[1\]; expected a mapping"):
        load_recipe(written(tmp_path, {**LEAST, "training": [1]}), [("seed", "2")])


def test_adapters_are_overridden_one_setting_at_a_time(tmp_path: Path) -> None:
    for record in (LEAST, {**LEAST, "adapters": "lora"}, {**LEAST, "adapters": {"r": 8, "alpha": 3}}):
        found = load_recipe(written(tmp_path, record), [("adapters.r", "4")]).adapters
        assert found is not None
        assert (found.r, found.alpha == 3) == (4, isinstance(record.get("adapters"), dict))
    found = load_recipe(written(tmp_path), [("adapters", "lora"), ("adapters.dropout", "0.3")]).adapters
    assert found is not None
    assert found.dropout == 0.3
    with pytest.raises(UsageError, match=r"did you mean 'adapters\.alpha'"):
        load_recipe(written(tmp_path), [("adapters.alhpa", "4")])
