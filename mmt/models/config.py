"""The options of ``moe_transformer``: those of fairseq's ``transformer`` under their usual flat names, and the MoE
ones.

fairseq's TransformerConfig is nested (``encoder.embed_dim``), its command line is flat (``--encoder-embed-dim``), and
only flat dataclasses work through ``fairseq-train`` and Hydra alike. So the flat one is derived from the nested one
here, field by field.
"""

import argparse
import ast
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig, QuantNoiseConfig
from omegaconf import DictConfig

from mmt.data.task_ids import TASK_ID_KINDS
from mmt.errors import UserError, as_typed
from mmt.modules.dispatch import DROP_POLICIES
from mmt.modules.experts import ACTIVATIONS

logger = logging.getLogger(__name__)

ROUTINGS = ("dense", "token", "sentence", "task")

# Widths that follow from others unless they are given.
DERIVED = {
    "encoder_embed_dim": 512,
    "decoder_embed_dim": None,
    "decoder_ffn_embed_dim": None,
    "decoder_input_dim": None,
    "decoder_output_dim": None,
}
_NESTED = {"encoder": EncDecBaseConfig, "decoder": DecoderConfig, "quant_noise": QuantNoiseConfig}
_OF_OTHER_ENGINES = ("base_layers", "base_sublayers", "base_shuffle", "char_inputs", "relu_dropout", "export")


def _flat_fields() -> list[tuple[str, Any, Any]]:
    """List name, type and default of every option of fairseq's transformer under its command-line name."""
    flat = []
    for outer in dataclasses.fields(TransformerConfig):
        if outer.name in _OF_OTHER_ENGINES or outer.name.startswith("_"):
            continue
        if outer.name not in _NESTED:
            flat.append((outer.name, outer.type, field(default=outer.default, metadata=dict(outer.metadata))))
            continue
        for inner in dataclasses.fields(_NESTED[outer.name]):
            if inner.name.startswith("_"):
                continue
            name = f"{outer.name}_{inner.name}"
            kind, default = inner.type, inner.default
            if name in DERIVED:
                kind, default = Optional[int], DERIVED[name]
            if name.endswith("layers_to_keep"):
                kind = Optional[str]
            flat.append((name, kind, field(default=default, metadata=dict(inner.metadata))))
    return flat


FlatTransformerConfig = dataclasses.make_dataclass("FlatTransformerConfig", _flat_fields(), bases=(FairseqDataclass,))


@dataclass
class MoETransformerConfig(FlatTransformerConfig):  # type: ignore[valid-type, misc]
    """Options of the MoE transformer, added to those of fairseq's transformer."""

    moe_experts: int = field(
        default=0, metadata={"help": "experts in every MoE layer; 0 builds fairseq's dense transformer"}
    )
    moe_freq: int = field(
        default=2, metadata={"help": "every N-th layer is an MoE layer, counted from the input; 2: layers 2, 4, 6, ..."}
    )
    moe_top_k: int = field(default=2, metadata={"help": "experts that each token is sent to"})
    encoder_routing: ChoiceEnum(ROUTINGS) = field(  # type: ignore[valid-type]
        default="token",
        metadata={
            "help": "what the encoder's routers look at: each token, the mean of a sentence, or the task id; "
            "dense: no experts"
        },
    )
    decoder_routing: ChoiceEnum(ROUTINGS) = field(  # type: ignore[valid-type]
        default="token",
        metadata={
            "help": "what the decoder's routers look at; sentence: the mean of the encoder's states, so that no "
            "future token is seen"
        },
    )
    moe_task_id: ChoiceEnum(TASK_ID_KINDS) = field(  # type: ignore[valid-type]
        default="target",
        metadata={"help": "what a task is for task routing: the target language, the source language, or the pair"},
    )
    moe_capacity_factor: Optional[float] = field(
        default=None,
        metadata={
            "help": "in training an expert takes at most ceil(factor * top_k * tokens / experts) tokens; not "
            "set: dropless. Evaluation never drops"
        },
    )
    moe_drop_policy: ChoiceEnum(DROP_POLICIES) = field(  # type: ignore[valid-type]
        default="random",
        metadata={
            "help": "which tokens an overfull expert keeps: a random subset (RTS), the most probable, or the first ones"
        },
    )
    moe_input_jitter: float = field(
        default=0.0,
        metadata={"help": "in training multiply the router's input by U(1 - jitter, 1 + jitter); 0.01 is usual"},
    )


def validate(config: Any) -> None:
    """Check the options that have a range, and the MoE options against each other.

    Raises:
        UserError: names the option, the rule and the value.
    """
    for option in ("dropout", "attention_dropout", "activation_dropout"):
        probability = getattr(config, option)
        if not 0 <= probability < 1:
            raise UserError(f"{as_typed(option)} must be in [0, 1), but is {probability}")
    if config.moe_experts < 0:
        raise UserError(f"--moe-experts must be 0 (dense) or more, but is {config.moe_experts}")
    if config.moe_experts == 0:
        if {config.encoder_routing, config.decoder_routing} & {"sentence", "task"}:
            logger.warning("--moe-experts is 0: the model is dense, and its routing options have no effect")
        return
    if not 1 <= config.moe_top_k <= config.moe_experts:
        raise UserError(
            f"--moe-top-k must be between 1 and --moe-experts ({config.moe_experts}), but is {config.moe_top_k}"
        )
    if config.moe_freq < 1:
        raise UserError(f"--moe-freq must be 1 or more, but is {config.moe_freq}")
    for side in ("encoder", "decoder"):
        routing, layers = getattr(config, f"{side}_routing"), getattr(config, f"{side}_layers")
        if routing != "dense" and config.moe_freq > layers:
            raise UserError(
                f"--moe-freq must not exceed --{side}-layers ({layers}), but is {config.moe_freq}: no layer "
                f"would have experts"
            )
    if config.encoder_routing == config.decoder_routing == "dense":
        raise UserError(
            f"--moe-experts is {config.moe_experts}, but --encoder-routing and --decoder-routing are both 'dense'"
        )
    if config.moe_capacity_factor is not None and not config.moe_capacity_factor > 0:
        raise UserError(
            f"--moe-capacity-factor must be above 0, but is {config.moe_capacity_factor}; leave it out for "
            f"dropless experts"
        )
    if not 0 <= config.moe_input_jitter < 1:
        raise UserError(f"--moe-input-jitter must be in [0, 1), but is {config.moe_input_jitter}")
    if config.activation_fn not in ACTIVATIONS:
        raise UserError(
            f"--activation-fn must be one of {', '.join(ACTIVATIONS)} with --moe-experts, but is "
            f"{config.activation_fn!r}"
        )
    # Quantization noise would pass over the experts. With layer drop, processes leave out different layers, and wait
    # for each other's statistics of them.
    refused = ("offload_activations", "quant_noise_pq", "quant_noise_scalar", "encoder_layerdrop", "decoder_layerdrop")
    for option in refused:
        if getattr(config, option):
            raise UserError(f"{as_typed(option)} does not work with --moe-experts: leave it out")
    _warn_of_options_without_effect(config)


def _warn_of_options_without_effect(config: Any) -> None:
    """Warn only: a recipe may set them for all of its routings. But nobody shall wait for them to work."""
    routings = {config.encoder_routing, config.decoder_routing}
    without_effect = {
        "--moe-drop-policy without --moe-capacity-factor": config.moe_capacity_factor is None
        and config.moe_drop_policy != "random",
        "--moe-input-jitter without token or sentence routing": config.moe_input_jitter > 0
        and not routings & {"token", "sentence"},
        "--moe-task-id without task routing": config.moe_task_id != "target" and "task" not in routings,
    }
    for option, is_set in without_effect.items():
        if is_set:
            logger.warning("%s has no effect", option)


def nested_config(config: Any) -> TransformerConfig:
    """Turn the flat options into fairseq's nested TransformerConfig, with the MoE options as further attributes.

    Widths that were not given follow from others: the decoder's from the encoder's.
    """
    items = config if isinstance(config, (Mapping, DictConfig)) else vars(config)
    flat = {key: value for key, value in items.items() if not key.startswith("_")}
    if flat["decoder_embed_dim"] is None:
        flat["decoder_embed_dim"] = flat["encoder_embed_dim"]
    if flat["decoder_ffn_embed_dim"] is None:
        flat["decoder_ffn_embed_dim"] = flat["encoder_ffn_embed_dim"]
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if flat[name] is None:
            flat[name] = flat["decoder_embed_dim"]
    for name in ("adaptive_softmax_cutoff", "encoder_xformers_att_config", "decoder_xformers_att_config"):
        flat[name] = _literal(name, flat[name])
    flat.update(base_layers=0)
    return TransformerConfig.from_namespace(argparse.Namespace(**flat))


def _literal(name: str, value: Any) -> Any:
    """Parse a literal that fairseq would ``eval``: the options of a checkpoint must not be able to run code."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{as_typed(name)} must be a literal, but is {value!r}") from error
