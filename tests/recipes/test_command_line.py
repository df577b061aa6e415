"""The printed ``fairseq-train`` command means exactly what the recipe says."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import mmt  # noqa: F401  (registers the models and tasks that recipes name)
import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from mmt.command_line import fairseq_train_arguments
from mmt.errors import UserError
from mmt.recipes import compose, groups
from omegaconf import DictConfig, OmegaConf

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def choices_of(recipe: str) -> list[list[str]]:
    """List overrides that use every choice of every group of a recipe; demo alone goes through the group ``model``."""
    found = groups(RECIPES / recipe)
    if recipe != "demo":
        del found["model"]
    columns = [[f"{group}={choice}" for choice in choices] for group, choices in found.items()]
    return [[choice for choice in row if choice] for row in zip_longest(*columns)]


NAMES = sorted(path.parent.name for path in RECIPES.glob("*/train.yaml"))
CASES = [(name, row) for name in NAMES for row in choices_of(name)] + [("demo", ["model=moe_transformer_nllb_54b"])]


def parse(arguments: list[str]) -> DictConfig:
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))


def plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


@pytest.mark.parametrize(("recipe", "overrides"), CASES, ids=[f"{name} {' '.join(row)}" for name, row in CASES])
def test_fairseq_train_understands_the_command_as_the_recipe(recipe: str, overrides: list[str]) -> None:
    config = compose(RECIPES / recipe, overrides)

    parsed = plain(parse(fairseq_train_arguments(config)))

    for section, values in plain(config).items():
        if values is not None:  # scoring: fairseq-train has a default of its own, which training never reads
            assert {key: parsed[section][key] for key in values} == values, section


def test_only_what_differs_from_the_defaults_is_said() -> None:
    config = compose(RECIPES / "demo", ["model=dense"])
    arguments = fairseq_train_arguments(config)

    assert "--moe-experts" not in arguments  # 0 is the default
    assert "--max-tokens-valid" not in arguments  # follows from --max-tokens
    assert arguments[arguments.index("--max-tokens") + 1] == str(config.dataset.max_tokens)
    assert "--decoder-langtok" in arguments and "True" not in arguments  # a flag


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimization.update_freq=[2,3]", ["--update-freq", "2,3"]),
        ("checkpoint.keep_last_epochs=-5", ["--keep-last-epochs=-5"]),
        ("dataset.max_tokens_valid=77", ["--max-tokens-valid", "77"]),
        ("task.eval_bleu_args='{\"beam\": 4}'", ["--eval-bleu-args", '{"beam": 4}']),
        ("bpe=sentencepiece", ["--bpe", "sentencepiece"]),
    ],
)
def test_a_value_arrives_as_it_was_meant(override: str, said: list[str]) -> None:
    if override.startswith("bpe"):
        config = compose(RECIPES / "demo", ["bpe._name=sentencepiece", "bpe.sentencepiece_model=spm.model"])
    else:
        config = compose(RECIPES / "demo", [override])

    arguments = fairseq_train_arguments(config)

    assert said in [arguments[i : i + len(said)] for i in range(len(arguments))]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generation.beam=7", "fairseq-train cannot be told generation.beam=7"),
        ("task.max_source_positions=99", "task.max_source_positions=99.*one option --max-source-positions for both"),
        ("model.share_all_embeddings=null", "recipe demo: .*key: share_all_embeddings"),
    ],
)
def test_what_fairseq_train_cannot_be_told_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fairseq_train_arguments(compose(RECIPES / "demo", [override]))
