"""``mmt plan``: what fits on a cluster, with which mesh, and how fast it would be; computed without any GPU."""

import argparse
import logging
from pathlib import Path

from mmt.errors import UserError, as_typed
from mmt.planning.activations import Batch
from mmt.planning.cluster import GIB, Cluster, names, read_cluster
from mmt.planning.from_recipe import Subject, from_architecture, from_recipe, own_layout
from mmt.planning.largest import more_experts, wider
from mmt.planning.plan import judge, plans
from mmt.planning.scaling import check_plot, draw_scaling, scale, scaling_table
from mmt.planning.show import cluster_line, largest_table, memory_table, reasons, time_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``mmt plan``."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--recipe", metavar="NAME", help="a folder in recipes/, or its path")
    subject.add_argument("--arch", metavar="NAME", help="a named architecture, such as moe_transformer_zcode_64e")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="group=choice | section.key=value",
        help="as for mmt train; with --arch only model.KEY=VALUE, such as model.moe_experts=128",
    )
    parser.add_argument(
        "--cluster", required=True, metavar="NAME", help=f"{', '.join(names())}, or the path of a .yaml file"
    )
    parser.add_argument("--vocabulary", type=int, metavar="N", help="words; default: the recipe's, or 128,000")
    parser.add_argument(
        "--tokens-per-gpu", type=int, metavar="N", help="of a micro-batch; default: the recipe's max_tokens, or 4,096"
    )
    parser.add_argument("--sentence-length", type=int, default=32, metavar="N", help="tokens of a sentence (32)")
    parser.add_argument("--top", type=int, default=8, metavar="N", help="how many meshes to show (8)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--largest", action="store_true", help="show the largest models that fit, with the reasons")
    instead.add_argument(
        "--scaling", type=Path, metavar="FILE", help="simulate 1, 2, 4, ... nodes; a table, a plot (.svg, .png, .pdf)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan.

    Raises:
        UserError: names the option, the rule and the value.
    """
    # Both tell at level DEBUG what they do, and fairseq opens that level.
    for library in ("hydra", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for option in ("vocabulary", "tokens_per_gpu", "sentence_length", "top"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"{as_typed(option)} must be 1 or more, but is {value}")
    if args.scaling is not None:
        check_plot(args.scaling)
    cluster = read_cluster(args.cluster)
    if args.recipe is not None:
        subject = from_recipe(args.recipe, args.overrides, args.vocabulary)
    else:
        subject = from_architecture(args.arch, args.overrides, args.vocabulary)
    if args.largest and subject.model.cfg.moe_experts == 0:
        raise UserError("--largest grows the experts, but --moe-experts is 0")
    tokens = args.tokens_per_gpu or subject.tokens
    if tokens < args.sentence_length:
        longest = args.sentence_length
        raise UserError(f"--tokens-per-gpu must be at least --sentence-length ({longest}), but is {tokens}")
    batch = Batch(tokens // args.sentence_length, args.sentence_length, args.sentence_length)
    _print_subject(subject, batch, cluster)
    if args.largest:
        _print_largest(subject, batch, cluster)
    elif args.scaling is not None:
        found = scale(subject.model, batch, cluster, bf16=subject.bf16, update_freq=subject.update_freq)
        print(scaling_table(found))
        draw_scaling(found, args.scaling)
    else:
        _print_plans(subject, batch, cluster, args.top)
    return 0


def _print_subject(subject: Subject, batch: Batch, cluster: Cluster) -> None:
    cfg = subject.model.cfg
    print(
        f"{subject.name}: {subject.model.num_parameters / 1e9:.3f}B parameters, {cfg.encoder.layers} + "
        f"{cfg.decoder.layers} layers of width {cfg.encoder.embed_dim}, {cfg.moe_experts or 'no'} experts, "
        f"{subject.model.vocabulary:,} words"
    )
    print(
        f"{batch.sentences} sentences of {batch.source_length} + {batch.target_length} tokens on each GPU, "
        f"{subject.update_freq} times per update, matrix products in {'16' if subject.bf16 else '32'} bits"
    )
    print(f"{cluster_line(cluster)}\n")


def _print_plans(subject: Subject, batch: Batch, cluster: Cluster, top: int) -> None:
    found = plans(subject.model, batch, cluster, bf16=subject.bf16, update_freq=subject.update_freq)
    fitting = [plan for plan in found if plan.fits]
    which = "the fastest" if fitting else "those that want least"
    print(f"{len(fitting)} of {len(found)} meshes fit; {which}, GiB of one GPU and its host:\n")
    shown = found[:top] if not fitting else fitting[:top]
    print(f"{memory_table(shown)}\n\n{time_table(shown)}\n")
    if fitting:
        options = " ".join(fitting[0].layout.options)
        print(f"The fastest: {options or 'no options are needed'}")
    else:
        print("Nothing fits. model.checkpoint_activations=true, fewer --tokens-per-gpu, or more GPUs would help.")
    if subject.parallel is not None:
        try:
            layout = own_layout(subject.parallel, cluster.num_gpus)
        except UserError as error:
            print(f"The recipe's own mesh does not go with this cluster: {error}")
        else:
            own = judge(
                subject.model, layout, batch, cluster, bf16=subject.bf16, update_freq=subject.update_freq
            )
            says = "fits" if own.fits else "does not fit"
            print(f"The recipe's own mesh, {own.layout}, {says}: {own.memory.gpu / GIB:.1f} GiB of the GPU")


def _print_largest(subject: Subject, batch: Batch, cluster: Cluster) -> None:
    model = subject.model.with_options(checkpoint_activations=True)
    one_per_gpu = f"{cluster.num_gpus} experts: one per GPU"
    enough = one_per_gpu if cluster.num_gpus >= model.cfg.moe_top_k else "as many experts as a token chooses"
    for title, found in (
        ("More experts at the same width", more_experts(model, batch, cluster, bf16=subject.bf16)),
        (f"Wider layers, with {enough}", wider(model, batch, cluster, bf16=subject.bf16)),
    ):
        print(f"{title} (GiB of one GPU and its host):\n\n{largest_table(found)}\n\n{reasons(found, cluster)}\n")
    if cluster.note:
        print(cluster.note)
