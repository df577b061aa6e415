"""From options to an MoE layer: the only place that knows which option builds which router and dispatcher."""

from typing import Any

from torch import nn

from mmt.errors import UserError
from mmt.modules.dispatch import CapacityDispatch, DroplessDispatch
from mmt.modules.experts import Experts
from mmt.modules.moe_layer import MoELayer
from mmt.modules.router import SentenceRouter, TaskRouter, TokenRouter

ROUTERS: dict[str, type[nn.Module]] = {"token": TokenRouter, "sentence": SentenceRouter, "task": TaskRouter}


def is_moe_layer(cfg: Any, side: str, index: int) -> bool:
    """Tell whether layer ``index`` (from 0) of the "encoder" or "decoder" has experts."""
    return cfg.moe_experts > 0 and getattr(cfg, f"{side}_routing") != "dense" and (index + 1) % cfg.moe_freq == 0


def build_moe_layer(cfg: Any, side: str, num_tasks: int) -> MoELayer:
    """Build one MoE layer of the "encoder" or "decoder".

    Args:
        cfg: fairseq's nested TransformerConfig with the MoE options (``models.config.nested_config``).
        side: "encoder" or "decoder".
        num_tasks: how many task ids there are.

    Raises:
        UserError: if the router's choice for a token depends on later tokens and ``side`` is "decoder".
    """
    dims = getattr(cfg, side)
    routing = getattr(cfg, f"{side}_routing")
    seen = cfg.encoder if routing == "sentence" else dims  # a sentence is the mean state of the encoder
    return MoELayer(
        router=build_router(routing, side, seen.embed_dim, num_tasks, cfg),
        dispatch=build_dispatch(cfg),
        experts=Experts(
            num_experts=cfg.moe_experts,
            model_dim=dims.embed_dim,
            ffn_dim=dims.ffn_embed_dim,
            activation=cfg.activation_fn,
            dropout=cfg.activation_dropout,
        ),
    )


def build_router(routing: str, side: str, model_dim: int, num_tasks: int, cfg: Any) -> nn.Module:
    """Build the router that ``--encoder-routing`` or ``--decoder-routing`` names."""
    router_class = ROUTERS[routing]
    if side == "decoder" and getattr(router_class, "batch_wise", False):
        raise UserError(
            f"--decoder-routing {routing} chooses experts by looking at the whole batch, and so at tokens that "
            f"a decoder must not see yet; "
            "it can be used for --encoder-routing only"
        )
    options = {
        "model_dim": model_dim,
        "num_experts": cfg.moe_experts,
        "top_k": cfg.moe_top_k,
        "input_jitter": cfg.moe_input_jitter,
    }
    if router_class is TaskRouter:
        del options["input_jitter"]
        options["num_tasks"] = num_tasks
    return router_class(**options)


def build_dispatch(cfg: Any) -> nn.Module:
    """Build the dispatcher that ``--moe-capacity-factor`` and ``--moe-drop-policy`` name."""
    if cfg.moe_capacity_factor is None:
        return DroplessDispatch()
    return CapacityDispatch(capacity_factor=cfg.moe_capacity_factor, drop_policy=cfg.moe_drop_policy)
