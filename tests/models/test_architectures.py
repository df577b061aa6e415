"""The named architectures have the sizes that the papers print (on the meta device: nothing is allocated)."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from torch import nn

from mmt.models.architectures import ARCHITECTURES
from mmt.models.config import MoETransformerConfig
from mmt.models.moe_transformer import MoETransformerModel
from mmt.planning.model import WordsWithoutText


def build(architecture: str, vocabulary: int, **options) -> MoETransformerModel:
    dictionary = WordsWithoutText(vocabulary)
    task = SimpleNamespace(
        source_dictionary=dictionary,
        target_dictionary=dictionary,
        langs=["en", "de"],
        trained_lang_pairs=["en-de", "de-en"],
    )
    with torch.device("meta"):
        return MoETransformerModel.build_model(MoETransformerConfig(**{**ARCHITECTURES[architecture], **options}), task)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "architecture, vocabulary, billions",
    [
        ("moe_transformer_zcode_32e", 128_000, 5.32),  # 5.3186 without the routers
        ("moe_transformer_zcode_64e", 128_000, 10.15),  # 10.153 without the routers
        ("moe_transformer_zcode_dense", 128_000, 0.635),
        ("moe_transformer_base_32e", 64_000, 0.533),
        ("moe_transformer_base_dense", 64_000, 0.142),
        ("moe_transformer_nllb_54b", 256_206, 54.5),
    ],
)
def test_parameter_counts_are_those_of_the_papers(architecture: str, vocabulary: int, billions: float) -> None:
    digits = len(str(billions).split(".")[1])
    assert round(size(build(architecture, vocabulary)) / 1e9, digits) == billions


def test_the_parts_of_task_level_moe_have_the_sizes_of_its_table_7() -> None:
    model = build("moe_transformer_base_32e", 64_000)
    layers = {"encoder": size(model.encoder.layers), "decoder": size(model.decoder.layers)}
    assert {side: round(count / 1e6) for side, count in layers.items()} == {"encoder": 214, "decoder": 221}
    experts = model.encoder.layers[1].moe.experts
    assert round(size(experts) / experts.weight_1.size(0) / 1e6, 1) == 2.1


def test_a_sub_network_of_two_experts_per_layer_has_155_million_parameters() -> None:
    assert round(size(build("moe_transformer_base_32e", 64_000, moe_experts=2)) / 1e6) == 155


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_is_registered_for_the_command_line(architecture: str) -> None:
    assert ARCH_MODEL_REGISTRY[architecture] is MoETransformerModel
