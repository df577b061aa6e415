"""``--task multilingual_moe_translation``: many translation directions in one model that knows the languages of every
sentence.
"""

import argparse
import contextlib
import hashlib
import inspect
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.tasks import register_task
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask
from torch import Tensor, nn

from mmt.data.dataset_manager import LanguageIdDatasetManager
from mmt.data.language_ids import LanguageIdDataset
from mmt.errors import UserError, first_line
from mmt.tasks.checks import check_best_metric, check_options, check_training_data
from mmt.tasks.config import MultilingualMoETranslationConfig, as_fairseq_arguments, extra_lang_pairs
from mmt.tasks.scoring_task import ScoringTask
from mmt.tasks.vocabulary_files import Contents, read_vocabulary, write_vocabulary


@register_task("multilingual_moe_translation", dataclass=MultilingualMoETranslationConfig)
class MultilingualMoETranslationTask(ScoringTask):
    """fairseq's ``translation_multi_simple_epoch`` for models that route by task.

    Every batch, in training, validation, generation and interactive use, tells the model the source and target language
    of each sentence (``net_input.src_lang_id`` and ``net_input.tgt_lang_id``, indices into ``langs``).

    Attributes:
        langs: the ordered languages.
        trained_lang_pairs: the directions in ``--lang-pairs`` and ``--extra-lang-pairs``.
        autocast_dtype: set by the trainer for ``--bf16``; None computes in the parameters' own type.
    """

    def __init__(self, args: Any, langs: list[str], dicts: dict[str, Dictionary], training: bool) -> None:
        super().__init__(args, langs, dicts, training)
        self.trained_lang_pairs = list(dict.fromkeys(args.lang_pairs + extra_lang_pairs(args)))
        self._goes_with_checkpoint = not training
        self.autocast_dtype: torch.dtype | None = None
        self.data_manager = LanguageIdDatasetManager(args, self.lang_pairs, langs, dicts, self.sampling_method)
        self._vocabulary: Contents = {}

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of ``MultilingualMoETranslationConfig``."""
        gen_parser_from_dataclass(parser, MultilingualMoETranslationConfig())

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "MultilingualMoETranslationTask":
        """Set the task up from its options.

        Raises:
            UserError: names the option, file or language that is wrong.
        """
        args = as_fairseq_arguments(cfg)
        check_options(args, LanguageIdDatasetManager.load_langs(args))
        if not kwargs.get("from_checkpoint"):  # a model is used without its training data
            check_training_data(args)
        task = super().setup_task(args, **kwargs)
        task.sentencepiece  # a damaged model is better found now than at the first validation
        if args.fixed_dictionary is not None:  # two dictionaries have no place in a data folder
            files = Path(args.data.split(":")[0]), Path(args.fixed_dictionary)
            task._vocabulary = read_vocabulary(*files, task.langs, task.trained_lang_pairs)
        # fairseq-validate loads a model, but no direction is chosen, so that fairseq takes it for a training.
        task._goes_with_checkpoint |= bool(kwargs.get("from_checkpoint"))
        return task

    def check_dicts(self, dicts: dict[str, Dictionary], source_langs: list[str], target_langs: list[str]) -> None:
        """Check that all languages share one dictionary.

        Raises:
            UserError: names two that differ.
        """
        try:
            super().check_dicts(dicts, source_langs, target_langs)
        except AssertionError as error:
            first, other = next(
                (languages[0], language)
                for languages in (source_langs, target_langs)
                for language in languages
                if dicts[language] != dicts[languages[0]]
            )
            raise UserError(
                f"{self.args.data}: dict.{first}.txt and dict.{other}.txt differ, but all languages share one "
                "dictionary; give fairseq-preprocess the same --srcdict and --tgtdict for all pairs"
            ) from error

    @classmethod
    def load_dictionary(cls, filename: str) -> Dictionary:
        """Load a dictionary.

        Raises:
            UserError: if the file is there, but is not a dictionary.
        """
        try:
            return super().load_dictionary(filename)
        except FileNotFoundError:
            raise
        except Exception as error:  # of bad UTF-8 fairseq raises a bare one
            raise UserError(f"{filename}: not a dictionary of fairseq ({first_line(error)})") from error

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model.

        Raises:
            UserError: if the architecture does not take the languages of a sentence, or the validations of a training
                cannot search for translations as ``--eval-bleu-args`` says.
        """
        model = super().build_model(cfg, from_checkpoint)
        if "src_lang_id" not in inspect.signature(model.forward).parameters:
            raise UserError(
                f"--task multilingual_moe_translation tells the model the languages of every sentence, which --arch "
                f"{getattr(cfg, 'arch', None) or getattr(cfg, '_name', None)} does not take: use --arch "
                "moe_transformer (with --moe-experts 0 it is fairseq's transformer)"
            )
        if self.args.eval_bleu and not from_checkpoint:
            self.check_search(model)
        return model

    def set_direction(self, source: str, target: str) -> None:
        """Translate from ``source`` to ``target`` from now on.

        Raises:
            UserError: if a language is unknown.
        """
        for language in (source, target):
            if language not in self.langs:
                raise UserError(f"unknown language {language!r}; the model knows {', '.join(self.langs)}")
        self.args.source_lang, self.args.target_lang = source, target

    # What the trainer asks for.

    def has_sharded_data(self, split: str) -> bool:
        """Tell whether epochs go through several folders. fairseq's training asks for "train", whatever
        ``--train-subset`` is.
        """
        return super().has_sharded_data(self.args.train_subset if split == "train" else split)

    def check_checkpoint_metric(self, name: str, logged: Collection[str] | None, *, maximize: bool) -> None:
        """Call ``check_best_metric``, which names the arguments, with what this task's validations have."""
        is_ours = type(self) is MultilingualMoETranslationTask  # another one may log what it likes
        check_best_metric(name, logged if is_ours else None, self.args.eval_bleu, self.lang_pairs, maximize=maximize)

    def keep_vocabulary(self, folder: Path) -> None:
        """Write what goes with the model beside a run's checkpoints, as it was when the training started."""
        if folder.resolve() != Path(self.args.data.split(":")[0]).resolve():
            write_vocabulary(self._vocabulary, folder)

    # What a checkpoint remembers of the data that its embeddings stand for.

    def state_dict(self) -> dict[str, Any]:
        """Return what must be the same wherever the model is used: the languages, a hash of the dictionaries, and the
        trained directions.
        """
        symbols = [self.source_dictionary.symbols, self.target_dictionary.symbols]
        digest = hashlib.sha256(json.dumps(symbols).encode()).hexdigest()
        return {
            **super().state_dict(),
            "languages": list(self.langs),
            "dictionary_sha256": digest,
            "lang_pairs": list(self.trained_lang_pairs),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the data folder is the one that the checkpoint was trained with.

        A model that is used, not trained, has the directions it was trained with, whatever ``--lang-pairs`` says now:
        with ``--moe-task-id pair`` they are its tasks.

        Raises:
            UserError: if the languages, their order or the dictionaries differ.
        """
        state, own = dict(state_dict), self.state_dict()
        languages = state.pop("languages", own["languages"])  # older checkpoints have neither
        digest = state.pop("dictionary_sha256", own["dictionary_sha256"])
        trained_lang_pairs = state.pop("lang_pairs", own["lang_pairs"])
        if list(languages) != own["languages"]:
            raise UserError(
                f"the languages do not fit the checkpoint: its languages are {', '.join(languages)}, those of "
                f"{self.args.data} are {', '.join(own['languages'])}"
            )
        if digest != own["dictionary_sha256"]:
            raise UserError(
                f"the dictionary does not fit the checkpoint: {self.args.data} has other words, or the same in another "
                "order; use the data folder (dict.txt, lang_list.txt) that the model was trained with"
            )
        if self._goes_with_checkpoint:
            self.trained_lang_pairs = list(trained_lang_pairs)
        super().load_state_dict(state)

    def filter_indices_by_size(
        self, indices: Any, dataset: Any, max_positions: Any = None, ignore_invalid_inputs: bool = False
    ) -> Any:
        """Leave out sentences that are too long, or refuse them.

        Raises:
            UserError: names the first of them, its length, the limit, and the option that leaves them out.
        """
        try:
            return super().filter_indices_by_size(indices, dataset, max_positions, ignore_invalid_inputs)
        except Exception as error:
            if type(error) is not Exception:  # fairseq raises a bare one
                raise
            raise UserError(str(error)) from error

    # The languages of every sentence.

    def _direction(self) -> tuple[int, int]:
        """Return the indices of ``--source-lang`` and ``--target-lang``."""
        if self.args.source_lang is None or self.args.target_lang is None:
            raise UserError("--source-lang and --target-lang are needed to translate text without languages")
        return self.langs.index(self.args.source_lang), self.langs.index(self.args.target_lang)

    def _with_language_ids(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Move the language ids to where the model looks for them; without any, they are those of the current
        direction.
        """
        net_input = dict(sample["net_input"])
        source, target = net_input.get("src_lang_id"), sample.get("tgt_lang_id", net_input.get("tgt_lang_id"))
        if source is None or target is None:
            shape = (net_input["src_tokens"].size(0), 1)
            source, target = (net_input["src_tokens"].new_full(shape, index) for index in self._direction())
        return {**sample, "net_input": {**net_input, "src_lang_id": source, "tgt_lang_id": target}}

    def build_dataset_for_inference(
        self, src_tokens: list[Tensor], src_lengths: list[int], constraints: Any = None
    ) -> FairseqDataset:
        source, target = self._direction()
        dataset = super().build_dataset_for_inference(src_tokens, src_lengths, constraints)
        return LanguageIdDataset(dataset, source, target)

    def build_generator(self, models: Sequence[nn.Module], args: Any, *others: Any, **kwargs: Any) -> Any:
        """Build what searches for translations.

        Raises:
            UserError: if the target language's token is to be taken out of the output, and there is no target language.
        """
        # fairseq looks for --keep-inference-langtok among the options of the search, where no command puts it.
        if self.args.keep_inference_langtok or getattr(args, "keep_inference_langtok", False):
            return super(TranslationMultiSimpleEpochTask, self).build_generator(models, args, *others, **kwargs)
        if self.args.langtoks["main"][1]:
            self._direction()
        return super().build_generator(models, args, *others, **kwargs)

    # Steps.

    @contextlib.contextmanager
    def _autocast(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        dtype = self.autocast_dtype or getattr(model, "autocast_dtype", None)
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            yield

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Run forward and backward on one micro-batch; a dummy one (``ignore_grad``) takes part, but weighs nothing."""
        model.train()
        model.set_num_updates(update_num)
        with torch.autograd.profiler.record_function("forward"), self._autocast(model):
            sample = {**self._with_language_ids(sample), "is_dummy": ignore_grad}
            sample["net_input"]["is_dummy"] = ignore_grad
            loss, sample_size, logging_output = criterion(model, sample)
        if ignore_grad:
            loss, sample_size = loss * 0, sample_size * 0
            logging_output = {key: value * 0 for key, value in logging_output.items()}
        with torch.autograd.profiler.record_function("backward"):
            optimizer.backward(loss)
        return loss, sample_size, logging_output

    def valid_step(
        self, sample: dict[str, Any], model: nn.Module, criterion: Any
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        sample = self._with_language_ids(sample)
        with self._autocast(model):
            return super().valid_step(sample, model, criterion)

    def inference_step(
        self,
        generator: Any,
        models: Sequence[nn.Module],
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Any = None,
    ) -> list[list[dict[str, Tensor]]]:
        with self._autocast(models[0]):
            return super().inference_step(
                generator, models, self._with_language_ids(sample), prefix_tokens, constraints
            )
