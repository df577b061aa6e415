"""The model that is planned for: its options, its vocabulary, and its parameters without their values."""

import copy
import dataclasses
import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from mmt.distributed.split_rules import is_of_experts
from mmt.models.config import nested_config
from mmt.models.moe_transformer import MoETransformerModel
from mmt.planning.memory import ParameterShape, parameter_shapes

SPECIAL_SYMBOLS = 4


class WordsWithoutText:
    """A dictionary of which only the size is known."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def pad(self) -> int:
        """Return fairseq's index of padding."""
        return 1


@dataclass(frozen=True)
class PlannedModel:
    """A model.

    Attributes:
        options: its flat options (``MoETransformerConfig``).
        cfg: the same, nested (``models.config.nested_config``).
        vocabulary: words, with special symbols and languages.
        languages: languages beside English.
        parameters: their names and shapes.
    """

    options: Any
    cfg: Any
    vocabulary: int
    languages: int
    parameters: tuple[ParameterShape, ...]

    @functools.cached_property
    def experts(self) -> list[ParameterShape]:
        """The parameters of the experts."""
        return [parameter for parameter in self.parameters if parameter.is_of_experts]

    @functools.cached_property
    def dense(self) -> list[ParameterShape]:
        """All other parameters."""
        return [parameter for parameter in self.parameters if not parameter.is_of_experts]

    @property
    def num_parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(parameter.num_elements for parameter in self.parameters)

    def with_experts(self, experts: int) -> "PlannedModel":
        """Return the same model with another number of experts, quickly."""

        def resized(parameter: ParameterShape) -> ParameterShape:
            if is_of_experts(parameter.name) or parameter.name.endswith("router.gate.weight"):
                return dataclasses.replace(parameter, shape=(experts, *parameter.shape[1:]))
            return parameter

        options, cfg = copy.deepcopy(self.options), copy.deepcopy(self.cfg)
        options.moe_experts = cfg.moe_experts = experts
        return dataclasses.replace(self, options=options, cfg=cfg, parameters=tuple(map(resized, self.parameters)))

    def with_options(self, **changes: Any) -> "PlannedModel":
        """Return the model with other options."""
        options = copy.deepcopy(self.options)
        for name, value in changes.items():
            setattr(options, name, value)
        return plan_model(options, self.vocabulary, self.languages)


def plan_model(options: Any, vocabulary: int, languages: int = 50) -> PlannedModel:
    """Lay a model out without allocating it.

    Args:
        options: a MoETransformerConfig, as dataclass or DictConfig.
        vocabulary: words, with special symbols and languages.
        languages: languages beside English.

    Raises:
        UserError: if an option breaks a rule.
    """
    words = WordsWithoutText(vocabulary)
    codes = [f"x{number}" for number in range(languages)]
    pairs = [pair for code in codes for pair in (f"en-{code}", f"{code}-en")]
    task = SimpleNamespace(
        source_dictionary=words, target_dictionary=words, langs=["en", *codes], trained_lang_pairs=pairs
    )
    with torch.device("meta"):
        model = MoETransformerModel.build_model(options, task)
    return PlannedModel(options, nested_config(options), vocabulary, languages, tuple(parameter_shapes(model)))
