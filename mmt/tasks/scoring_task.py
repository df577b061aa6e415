"""fairseq's multilingual task, with validations that translate (``--eval-bleu``)."""

import argparse
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.data.multilingual.multilingual_utils import get_lang_tok
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from mmt.errors import UserError
from mmt.tasks.detokenizer import Detokenizer, load_sentencepiece
from mmt.tasks.generation_options import validation_search
from mmt.tasks.validation_scores import KEY as SCORE_SUMS
from mmt.tasks.validation_scores import ValidationScores
from mmt.tasks.vocabulary_files import SENTENCEPIECE

logger = logging.getLogger(__name__)


class ScoringTask(TranslationMultiSimpleEpochTask):
    """A task that, with ``--eval-bleu``, translates every validation batch and scores it in each direction.

    The batches of ``valid_step`` name the languages of their sentences, as ``net_input.src_lang_id`` and
    ``net_input.tgt_lang_id``.
    """

    def __init__(self, args: Any, langs: list[str], dicts: dict[str, Dictionary], training: bool) -> None:
        super().__init__(args, langs, dicts, training)
        self.validation_scores = ValidationScores(self.lang_pairs)
        # Runs the search for one batch; set by the trainer where several processes need each other in each step.
        self.translate_batch: Callable[[Callable[[], Any]], Any] = lambda search: search()

    @functools.cached_property
    def sentencepiece(self) -> SentencePieceProcessor | None:
        """The data folder's ``spm.model``, if there is one.

        Raises:
            UserError: if the file is not a SentencePiece model.
        """
        return load_sentencepiece(Path(self.args.data.split(":")[0]) / SENTENCEPIECE)

    @functools.cached_property
    def detokenize(self) -> Detokenizer:
        """Turns token ids into plain text."""
        spec, style = self.args.langtoks["main"][1], self.args.lang_tok_style
        tokens = [get_lang_tok(lang=language, lang_tok_style=style, spec=spec) for language in self.langs if spec]
        language_tokens = {self.data_manager.get_langtok_index(token, self.target_dictionary) for token in tokens}
        return Detokenizer(self.target_dictionary, language_tokens, self.sentencepiece)

    @functools.cached_property
    def _search(self) -> argparse.Namespace:
        """What ``--eval-bleu-args`` says, read once and not for every batch."""
        return validation_search(self.args.eval_bleu_args)

    def check_search(self, model: nn.Module) -> None:
        """Check that validations can search for translations as ``--eval-bleu-args`` says.

        Raises:
            UserError: says why they cannot.
        """
        try:
            self._validation_generator(model)
        except (AssertionError, TypeError, ValueError) as error:
            raise UserError(f"--eval-bleu-args {self.args.eval_bleu_args}: {error}") from error
        model.train()  # a generator puts its model into evaluation mode

    def _validation_generator(self, model: nn.Module) -> Any:
        """Build what searches for translations as ``--eval-bleu-args`` says."""
        return self.build_generator([model], self._search)

    def valid_step(
        self, sample: dict[str, Any], model: nn.Module, criterion: Any
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Compute the loss and, with ``--eval-bleu``, translate the batch and add up its scores."""
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.args.eval_bleu:
            logging_output[SCORE_SUMS] = self._score_batch(sample, model).to(loss.device)
        return loss, sample_size, logging_output

    def _score_batch(self, sample: dict[str, Any], model: nn.Module) -> Tensor:
        generator = self._validation_generator(model)
        # The target's own language token is forced, since one batch holds several target languages.
        prefix_tokens = sample["target"][:, :1] if self.args.langtoks["main"][1] else None
        with torch.no_grad():
            found = self.translate_batch(lambda: generator.generate([model], sample, prefix_tokens=prefix_tokens))
        hypotheses = [self.detokenize(best[0]["tokens"]) if best else "" for best in found]
        references = [self.detokenize(target[target.ne(self.target_dictionary.pad())]) for target in sample["target"]]
        languages = zip(
            sample["net_input"]["src_lang_id"].flatten().tolist(), sample["net_input"]["tgt_lang_id"].flatten().tolist()
        )
        directions = [f"{self.langs[source]}-{self.langs[target]}" for source, target in languages]
        if self.args.eval_bleu_print_samples:
            logger.info("%s example hypothesis: %s", directions[0], hypotheses[0])
            logger.info("%s example reference: %s", directions[0], references[0])
        return self.validation_scores.sums(hypotheses, references, directions)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        tables = [log[SCORE_SUMS] for log in logging_outputs if SCORE_SUMS in log]
        if tables:
            self.validation_scores.log(torch.stack([table.cpu() for table in tables]).sum(dim=0))
