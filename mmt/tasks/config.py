"""Options of ``--task multilingual_moe_translation``: those of fairseq's ``translation_multi_simple_epoch``, as a
dataclass so that Hydra knows them, and a few more.
"""

import argparse
import ast
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum
from omegaconf import II, MISSING, DictConfig, OmegaConf

from mmt.distributed.config import ParallelConfig
from mmt.errors import UserError, as_typed

DatasetFormat = ChoiceEnum(get_available_dataset_impl())


@dataclass
class MultilingualMoETranslationConfig(ParallelConfig):
    """Options of the task; help texts state what fairseq's do, defaults are fairseq's unless the text says
    otherwise.
    """

    data: str = field(
        default=MISSING, metadata={"help": "data folder, or several separated by colons that epochs go through in turn"}
    )
    source_lang: Optional[str] = field(
        default=None, metadata={"help": "inference source language", "argparse_alias": "-s"}
    )
    target_lang: Optional[str] = field(
        default=None, metadata={"help": "inference target language", "argparse_alias": "-t"}
    )
    lang_pairs: Optional[str] = field(
        default=None,
        metadata={
            "help": "directions to train, comma-separated (en-de,de-en), or a file with them; default: "
            "lang_pairs.txt of the data folder"
        },
    )
    langs: Optional[str] = field(
        default=None,
        metadata={
            "help": "languages, comma-separated; their order fixes the order of the language tokens and task ids"
        },
    )
    lang_dict: Optional[str] = field(
        default=None,
        metadata={
            "help": "file with one language per line, instead of --langs; default: lang_list.txt of the data folder"
        },
    )
    source_dict: Optional[str] = field(
        default=None, metadata={"help": "source dictionary, instead of the data folder's"}
    )
    target_dict: Optional[str] = field(
        default=None, metadata={"help": "target dictionary, instead of the data folder's"}
    )
    fixed_dictionary: Optional[str] = field(
        default=None, metadata={"help": "dictionary for every language; default: dict.txt of the data folder, if there"}
    )
    lang_tok_style: ChoiceEnum(["multilingual", "mbart"]) = field(  # type: ignore[valid-type]
        default="multilingual", metadata={"help": "how language tokens are written: __de__ or [de]"}
    )
    load_alignments: bool = field(default=False, metadata={"help": "load the binarized alignments"})
    left_pad_source: str = field(default="True", metadata={"help": "pad the source on the left"})
    left_pad_target: str = field(default="False", metadata={"help": "pad the target on the left"})
    max_source_positions: int = field(default=1024, metadata={"help": "max number of tokens in the source sequence"})
    max_target_positions: int = field(default=1024, metadata={"help": "max number of tokens in the target sequence"})
    upsample_primary: int = field(default=1, metadata={"help": "amount to upsample primary dataset"})
    truncate_source: bool = field(default=False, metadata={"help": "truncate source to max-source-positions"})
    encoder_langtok: Optional[ChoiceEnum(["src", "tgt"])] = field(  # type: ignore[valid-type]
        default=None, metadata={"help": "begin source sentences with the token of the source or target language"}
    )
    decoder_langtok: bool = field(
        default=False, metadata={"help": "begin target sentences with the token of the target language"}
    )
    lang_tok_replacing_bos_eos: bool = field(
        default=False, metadata={"help": "language tokens replace eos of the source and bos of the target"}
    )
    enable_lang_ids: bool = field(
        default=False, metadata={"help": "accepted for compatibility: this task always passes language ids"}
    )
    enable_reservsed_directions_shared_datasets: bool = field(
        default=False, metadata={"help": "let a direction and its reverse share their datasets (fairseq's spelling)"}
    )
    extra_data: Optional[str] = field(
        default=None, metadata={"help": 'further data by kind, such as \'{"mined": "path"}\''}
    )
    extra_lang_pairs: Optional[str] = field(
        default=None, metadata={"help": "language pairs of the further data by kind"}
    )
    langtoks_specs: str = field(
        default="main", metadata={"help": "kinds of data with language tokens of their own, comma-separated"}
    )
    langtoks: Optional[str] = field(
        default=None, metadata={"help": 'language tokens by kind of data, such as \'{"mined": ("src.mined", "tgt")}\''}
    )
    sampling_method: ChoiceEnum(["uniform", "temperature", "concat", "RoundRobin"]) = field(  # type: ignore[valid-type]
        default="concat", metadata={"help": "how to sample the directions"}
    )
    sampling_temperature: float = field(
        default=1.5,
        metadata={
            "help": "with --sampling-method temperature, a direction's share is (its share of the data) ^ (1 / "
            "temperature)"
        },
    )
    sampling_weights: Optional[str] = field(
        default=None, metadata={"help": "share of each direction, such as '{\"main:en-de\": 0.2, ...}'"}
    )
    sampling_weights_from_file: Optional[str] = field(default=None, metadata={"help": "JSON file with the shares"})
    virtual_epoch_size: Optional[int] = field(
        default=None, metadata={"help": "virtual epoch size to speed up data loading"}
    )
    virtual_data_size: Optional[int] = field(
        default=None, metadata={"help": "virtual data size of the whole joint dataset"}
    )
    keep_inference_langtok: bool = field(
        default=False, metadata={"help": "keep language tokens in the output (for debugging)"}
    )
    eval_bleu: bool = field(
        default=False,
        metadata={
            "help": "translate the validation set and log BLEU and chrF++ of each direction and their averages: "
            "--best-checkpoint-metric chrf (or bleu) "
            "--maximize-best-checkpoint-metric then keeps the best checkpoint and --patience stops early"
        },
    )
    eval_bleu_args: str = field(
        default="{}",
        metadata={"help": "JSON with generation options for --eval-bleu, such as '{\"beam\": 4}'; default beam: 1"},
    )
    eval_bleu_print_samples: bool = field(
        default=False, metadata={"help": "log an example translation of each validation batch"}
    )
    valid_sentences_per_direction: Optional[int] = field(
        default=None, metadata={"help": "validate on the first N sentences of each direction only"}
    )
    save_in_background: bool = field(
        default=False,
        metadata={
            "help": "go on training while a checkpoint is written, from a copy in memory; fairseq's --save-async is "
            "taken for it"
        },
    )
    # Values of other sections that fairseq's multilingual data loading reads.
    train_subset: str = II("dataset.train_subset")
    dataset_impl: Optional[DatasetFormat] = II("dataset.dataset_impl")  # type: ignore[valid-type]
    seed: int = II("common.seed")


def as_fairseq_arguments(cfg: Any) -> argparse.Namespace:
    """Turn the options into the namespace that ``translation_multi_simple_epoch`` expects, with the data folder's files
    as defaults.

    Args:
        cfg: a MultilingualMoETranslationConfig, as dataclass, DictConfig or namespace.

    Raises:
        UserError: if the data folder or a file named by an option does not exist, or an option cannot be parsed.
    """
    values: Any = dict(vars(cfg))
    if isinstance(cfg, DictConfig):
        values = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    args = argparse.Namespace(**values)
    folders = [Path(path) for path in str(args.data).split(":")]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"data folder {folder} does not exist")
    folder = folders[0]
    if args.langs is None and args.lang_dict is None and (folder / "lang_list.txt").is_file():
        args.lang_dict = str(folder / "lang_list.txt")
    if args.lang_pairs is None and (folder / "lang_pairs.txt").is_file():
        args.lang_pairs = str(folder / "lang_pairs.txt")
    if (
        args.fixed_dictionary is None
        and args.source_dict is None
        and args.target_dict is None
        and (folder / "dict.txt").is_file()
    ):
        args.fixed_dictionary = str(folder / "dict.txt")
    for option in ("lang_dict", "fixed_dictionary", "source_dict", "target_dict", "sampling_weights_from_file"):
        path = getattr(args, option)
        if path is not None and not Path(path).is_file():
            raise UserError(f"{as_typed(option)} {path}: no such file")
    if args.lang_dict is not None:
        _read_text("--lang-dict", args.lang_dict)  # fairseq reads it again
    if args.lang_dict is not None and args.langs is not None:
        raise UserError("--langs and --lang-dict are two ways to list the languages: give only one of them")
    for option in ("valid_sentences_per_direction", "virtual_epoch_size", "virtual_data_size"):
        number = getattr(args, option)
        if number is not None and number < 1:
            raise UserError(f"{as_typed(option)} must be 1 or more, but is {number}")
    if not args.sampling_temperature > 0:
        raise UserError(f"--sampling-temperature must be above 0, but is {args.sampling_temperature}")
    args.lang_pairs = parse_lang_pairs(args.lang_pairs, folder)
    args.langs = None if args.langs is None else _parse_langs(args.langs)
    args.langtoks_specs = args.langtoks_specs.split(",")
    for option in ("extra_data", "extra_lang_pairs", "langtoks", "sampling_weights"):
        setattr(args, option, _parse_dictionary(option, getattr(args, option)))
    if args.extra_lang_pairs is not None:
        pairs_by_kind = args.extra_lang_pairs.items()
        args.extra_lang_pairs = {kind: ",".join(dict.fromkeys(str(pairs).split(","))) for kind, pairs in pairs_by_kind}
    for pair in extra_lang_pairs(args):
        _check_pair("--extra-lang-pairs", pair)
    for kind, tokens in (args.langtoks or {}).items():
        _check_langtoks(kind, tokens)
    for option in ("left_pad_source", "left_pad_target"):
        if str(getattr(args, option)) not in ("True", "False"):
            raise UserError(f"{as_typed(option)} must be True or False, but is {getattr(args, option)!r}")
    return args


def parse_lang_pairs(text: str | None, folder: Path) -> list[str]:
    """Read "en-de,de-en", or a file with the same, into a list that has each direction once.

    Raises:
        UserError: if there are none, or one is not of the form source-target.
    """
    if text is None:
        raise UserError(
            f"--lang-pairs is needed: name the directions to train, such as en-de,de-en ({folder} has no "
            f"lang_pairs.txt)"
        )
    given = text
    if os.path.isfile(text):  # unlike Path.is_file, also answers for a list longer than any file name
        text = _read_text("--lang-pairs", text)
    pairs = [pair for pair in text.replace("\n", ",").replace(" ", "").split(",") if pair]
    if not pairs:
        raise UserError(f"--lang-pairs {given!r}: there is no direction, such as en-de")
    for pair in pairs:
        _check_pair("--lang-pairs", pair)
    return list(dict.fromkeys(pairs))


def _parse_langs(text: str) -> list[str]:
    languages = text.split(",")
    if not all(languages) or len(set(languages)) < len(languages):
        raise UserError(f"--langs must name each language once, and nothing empty, but is {text!r}")
    return languages


def _read_text(option: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{option} {path}: not valid UTF-8 ({error.reason} at byte {error.start + 1})") from error


def _check_pair(option: str, pair: str) -> None:
    if len(pair.split("-")) != 2 or not all(pair.split("-")):
        raise UserError(f"{option}: {pair!r} is not of the form source-target, such as en-de")


def extra_lang_pairs(args: argparse.Namespace) -> list[str]:
    """Return the directions in ``--extra-lang-pairs``, of all kinds of data."""
    return [pair for pairs in (args.extra_lang_pairs or {}).values() for pair in str(pairs).split(",")]


def language_tokens(args: argparse.Namespace) -> dict[str, tuple[str | None, str | None]]:
    """Return which language's token source and target have, by kind of data: what ``--langtoks`` says, and for "main"
    what ``--encoder-langtok`` and ``--decoder-langtok`` say if it says nothing.
    """
    return {"main": (args.encoder_langtok, "tgt" if args.decoder_langtok else None), **(args.langtoks or {})}


def _check_langtoks(kind: Any, tokens: Any) -> None:
    of_sides = ("src", "tgt"), ("tgt",)  # a kind of data may follow: "src.mined"
    is_pair = isinstance(tokens, (tuple, list)) and len(tokens) == 2
    if not is_pair or not all(
        token is None or str(token).split(".")[0] in known for token, known in zip(tokens, of_sides)
    ):
        raise UserError(
            f"--langtoks must give {kind!r} a pair, None, 'src' or 'tgt' for sources and None or 'tgt' for targets, "
            f"such as ('src', 'tgt'), but gives {tokens!r}"
        )


def _parse_dictionary(option: str, text: str | None) -> dict[str, Any] | None:
    """Parse a dictionary literal. fairseq would ``eval`` it, but the options of a checkpoint must not be able to run
    code.
    """
    if text is None:
        return None
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"{as_typed(option)} must be a dictionary such as '{{\"main\": ...}}', but is {text!r}"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{as_typed(option)} must be a dictionary, but is {text!r}")
    return value
