"""The model and the batch of a recipe, or of a named architecture, as the planner needs them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmt.distributed.mesh import choose_shape
from mmt.errors import UserError, first_line
from mmt.models.architectures import ARCHITECTURES
from mmt.models.config import MoETransformerConfig
from mmt.planning.model import SPECIAL_SYMBOLS, PlannedModel, plan_model
from mmt.planning.rank_memory import Layout
from mmt.recipes import compose, recipe_folder
from mmt.tasks.vocabulary_files import DICTIONARY, LANGUAGES

DEFAULT_TOKENS, DEFAULT_VOCABULARY, DEFAULT_LANGUAGES = 4096, 128_000, 50


@dataclass(frozen=True)
class Subject:
    """What is planned.

    Attributes:
        name: of the recipe or the architecture.
        model: its model.
        tokens: most tokens of a micro-batch on one process.
        update_freq: micro-batches of an update.
        bf16: whether matrix products are in 16 bits.
        parallel: the recipe's own options for many processes; None for an architecture.
    """

    name: str
    model: PlannedModel
    tokens: int
    update_freq: int
    bf16: bool
    parallel: dict[str, Any] | None = None


def from_architecture(name: str, overrides: Sequence[str], vocabulary: int | None) -> Subject:
    """Plan for a named architecture with other ``model.key=value`` options.

    Raises:
        UserError: names the architecture, the key or the value that is wrong.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"--arch {name}: no such architecture; there are {', '.join(ARCHITECTURES)}")
    values = dict(ARCHITECTURES[name])
    known = {field.name for field in dataclasses.fields(MoETransformerConfig)}
    for override in overrides:
        key, equals, value = override.partition("=")
        option = key.removeprefix("model.")
        if not equals or option == key or option not in known:
            raise UserError(f"{override!r}: with --arch, options are model.KEY=VALUE, as in model.moe_experts=128")
        try:
            given = {option: yaml.safe_load(value)}  # "1e-1" is a text to YAML
            merged: Any = OmegaConf.merge(OmegaConf.structured(MoETransformerConfig), given)
            values[option] = merged[option]
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{override!r}: {first_line(error)}") from error
    model = plan_model(MoETransformerConfig(**values), vocabulary or DEFAULT_VOCABULARY, DEFAULT_LANGUAGES)
    return Subject(name, model, DEFAULT_TOKENS, 1, bf16=True)


def from_recipe(name: str, overrides: Sequence[str], vocabulary: int | None) -> Subject:
    """Plan for a recipe as ``mmt train`` composes it.

    Raises:
        UserError: for what ``mmt train`` refuses, or if the size of the vocabulary is not known.
    """
    folder = recipe_folder(name)
    config = compose(folder, overrides)
    languages = _num_languages(folder, config.task.data)
    size = vocabulary or _vocabulary(folder, config.task.data, languages)
    parallel = {key: config.task[key] for key in ("expert_parallel_size", "tensor_parallel_size")}
    parallel.update(zero=config.task.zero, data_parallel_replicas=config.task.data_parallel_replicas)
    parallel["num_experts"] = config.model.moe_experts
    parallel["offload"] = bool(config.distributed_training.cpu_offload)
    return Subject(
        folder.name,
        plan_model(config.model, size, languages),
        config.dataset.max_tokens or DEFAULT_TOKENS,
        int(config.optimization.update_freq[0]),
        bool(config.common.bf16),
        parallel,
    )


def own_layout(parallel: dict[str, Any], world_size: int) -> Layout:
    """Return the layout that a recipe's options choose for so many processes.

    Raises:
        UserError: if they do not go with the number of processes.
    """
    sizes = {key: value for key, value in parallel.items() if key != "offload"}
    return Layout(choose_shape(world_size, **sizes), parallel["zero"], parallel["offload"])


def _recipe_data(folder: Path) -> dict[str, Any]:
    """Read data.yaml, on top of the recipe that it extends."""
    file = folder / "data.yaml"
    if not file.is_file():
        return {}
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "extends" not in data:
        return {**data, "folder": folder}
    return {**_recipe_data(folder.parent / data["extends"]), **data}


def _preset(folder: Path, path: str) -> dict[str, Any]:
    """Return what data.yaml says of the preset that ``data/RECIPE/PRESET/bin`` is made with."""
    parts = Path(path).parts
    return _recipe_data(folder).get("presets", {}).get(parts[2] if len(parts) == 4 else "", {})


def _num_languages(folder: Path, path: str) -> int:
    """Count the languages beside English: of prepared data; else those that data.yaml asks for."""
    prepared = Path(path.split(":")[0]) / LANGUAGES
    if prepared.is_file():
        return len(prepared.read_text(encoding="utf-8").split()) - 1
    if languages := _preset(folder, path).get("languages"):
        return len(languages) - 1
    data = _recipe_data(folder)
    listed = data.get("folder", folder) / str(data.get("languages", ""))
    return len(listed.read_text(encoding="utf-8").splitlines()) - 2 if listed.is_file() else DEFAULT_LANGUAGES


def _vocabulary(folder: Path, path: str, languages: int) -> int:
    """Count the words of prepared data; else take the size that data.yaml asks for."""
    dictionary = Path(path.split(":")[0]) / DICTIONARY
    if dictionary.is_file():
        words = dictionary.read_text(encoding="utf-8").count("\n")
        return words + SPECIAL_SYMBOLS + languages + 1
    preset = _preset(folder, path)
    if "vocab_size" not in preset:
        raise UserError(f"--vocabulary is needed: recipe {folder.name} has no {dictionary}, and no vocab_size for it")
    return preset["vocab_size"] + languages + 1
