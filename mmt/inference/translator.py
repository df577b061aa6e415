"""Lines of text in, translations out, in the order of the input."""

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from mmt.errors import UserError
from mmt.inference.loading import LoadedModel, load_model

TOO_LONG_POLICIES = ("skip", "truncate")
# Lines in a batch have equal lengths when these are rounded up to a multiple of this, and so the same limit for the
# length of the translation.
LENGTH_STEP = 8


@dataclass(frozen=True)
class DecodingOptions:
    """How to search for translations.

    Attributes:
        beam: size of the beam.
        lenpen: length penalty: below 1 favours short, above 1 long translations.
        max_len_a, max_len_b: a translation has at most ``max_len_a * source pieces + max_len_b`` pieces, where the
            number of source pieces is rounded up to a multiple of ``LENGTH_STEP``. fairseq-generate's defaults are 0
            and 200; with these, a weak model that repeats itself costs as much time as a page of text. It also takes
            the longest line of a batch for the limit of all, so that translations would depend on the lines around
            them.
        max_tokens: pieces in a batch, padding included.
        bf16: compute in bfloat16 (autocast).
        too_long: what happens to a line with more pieces than the model has positions: "skip" (empty translation) or
            "truncate".
    """

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 2.0
    max_len_b: int = 20
    max_tokens: int = 4096
    bf16: bool = False
    too_long: str = "skip"

    def __post_init__(self) -> None:
        rules = [
            ("--beam", self.beam, self.beam >= 1, "at least 1"),
            ("--lenpen", self.lenpen, math.isfinite(self.lenpen), "a finite number"),
            ("--max-len-a", self.max_len_a, 0 <= self.max_len_a < math.inf, "a finite number of at least 0"),
            ("--max-len-b", self.max_len_b, self.max_len_b >= 1, "at least 1"),
            ("--max-tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            ("--too-long", self.too_long, self.too_long in TOO_LONG_POLICIES, f"one of {', '.join(TOO_LONG_POLICIES)}"),
        ]
        for option, value, holds, rule in rules:
            if not holds:
                raise UserError(f"{option} must be {rule}, but is {value!r}")


@dataclass(frozen=True)
class Translation:
    """One line's translation.

    Attributes:
        text: without line breaks; empty for an empty line and for a skipped one.
        score: the hypothesis's log-probability, normalised by its length as fairseq does; None if nothing was
            translated.
        too_long: whether the line had more pieces than the model has positions.
    """

    text: str
    score: float | None = None
    too_long: bool = False


class Translator:
    """A loaded model that translates between any two of its languages.

    Args:
        loaded: the model.
        options: how to search.
    """

    def __init__(self, loaded: LoadedModel, options: DecodingOptions = DecodingOptions()) -> None:
        self.path, self.data, self.vocabulary = loaded.path, loaded.data, loaded.vocabulary
        self.model = loaded.model
        self.task = loaded.task
        self.options = options
        self.device = next(self.model.parameters()).device
        self.task.autocast_dtype = torch.bfloat16 if options.bf16 else None
        self._generators: dict[str, Any] = {}
        positions = utils.resolve_max_positions(self.task.max_positions(), self.model.max_positions())
        # Every source ends in </s>, and may begin with a language token.
        self.max_pieces = positions[0] - 2

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        data: str | Path | None = None,
        device: str = "cpu",
        options: DecodingOptions = DecodingOptions(),
    ) -> "Translator":
        """Load a checkpoint, or the best or last one of a run's folder.

        Raises:
            UserError: if it cannot be used; see ``load_model``.
        """
        return cls(load_model(path, data=data, device=device), options)

    @property
    def languages(self) -> list[str]:
        """The languages of the model."""
        return list(self.task.langs)

    @property
    def trained_directions(self) -> list[str]:
        """The directions that the model was trained in, such as "en-de"."""
        return list(self.task.trained_lang_pairs)

    @property
    def needs_pieces(self) -> bool:
        """Whether the dictionary has pieces of words, and there is no model that cuts text into them."""
        has_pieces = any("\u2581" in symbol or symbol.endswith("@@") for symbol in self.task.source_dictionary.symbols)
        return has_pieces and self.task.sentencepiece is None

    def check_direction(self, source: str, target: str, option: str) -> None:
        """Raise a UserError that names ``option`` if the model knows only trained pairs, and this is none of them."""
        direction, known = f"{source}-{target}", self.trained_directions
        routes_by_pair = self.model.encoder.needs_task_id and self.model.cfg.moe_task_id == "pair"
        if routes_by_pair and direction not in known:
            raise UserError(
                f"{option}: a model with --moe-task-id pair translates trained pairs only, and {direction} is not one "
                f"of them: {', '.join(known)}"
            )

    def check_language(self, language: str, option: str) -> None:
        """Raise a UserError that names ``option`` and lists the languages if the model does not know ``language``."""
        if language not in self.task.langs:
            raise UserError(f"{option}: unknown language {language!r}; the model knows {', '.join(self.task.langs)}")

    def translate(self, lines: Iterable[str], source: str, target: str, *, window: int = 1000) -> Iterator[str]:
        """Yield the translation of each line, in order; ``lines`` may be endless.

        Args:
            lines: without their line breaks.
            source: language of the lines.
            target: language of the translations.
            window: this many lines are read, batched by length and translated before the first of them is yielded.
        """
        iterator = iter(lines)
        while chunk := list(islice(iterator, window)):
            for translation in self.translate_window(chunk, source, target):
                yield translation.text

    def translate_window(
        self, lines: Sequence[str], source: str, target: str, *, on_batch: Callable[[int], object] | None = None
    ) -> list[Translation]:
        """Translate these lines, in batches of similar length.

        Args:
            lines: without their line breaks.
            source: language of the lines.
            target: language of the translations.
            on_batch: called after each batch with its number of lines; lines that need no translation are reported at
                the start.
        """
        self.check_language(source, "--from")
        self.check_language(target, "--to")
        self.task.set_direction(source, target)
        results = [Translation("")] * len(lines)
        sources: dict[int, Tensor] = {}
        for i, line in enumerate(lines):
            ids = self._encode(line)
            if too_long := len(ids) > self.max_pieces:
                results[i] = Translation("", too_long=True)
                ids = ids[: self.max_pieces]
            if ids and not (too_long and self.options.too_long == "skip"):
                sources[i] = torch.tensor([*ids, self.task.source_dictionary.eos()])
        if on_batch is not None and len(sources) < len(lines):
            on_batch(len(lines) - len(sources))
        for batch in _batches({i: len(tokens) for i, tokens in sources.items()}, self.options.max_tokens):
            found = self._translate_batch([sources[i] for i in batch], target)
            for i, (text, score) in zip(batch, found, strict=True):
                results[i] = Translation(text, score, results[i].too_long)
            if on_batch is not None:
                on_batch(len(batch))
        return results

    def _encode(self, line: str) -> list[int]:
        """Turn text into dictionary indices, without </s>; empty for a line without text."""
        spm, dictionary = self.task.sentencepiece, self.task.source_dictionary
        if spm is None:
            return [dictionary.index(piece) for piece in line.split()]
        # As the training text: SentencePiece's own table, made by data_prep, has no compositions of characters.
        pieces = spm.encode(unicodedata.normalize("NFC", line), out_type=str)
        return [dictionary.index(piece) for piece in pieces]

    def _translate_batch(self, sources: list[Tensor], target: str) -> list[tuple[str, float]]:
        dataset = self.task.build_dataset_for_inference(sources, [len(tokens) for tokens in sources])
        batch = dataset.collater([dataset[i] for i in range(len(sources))])
        order = batch["id"].tolist()  # collating sorts by length
        if self.device.type == "cuda":
            batch = utils.move_to_cuda(batch)
        hypotheses = self.task.inference_step(
            self._generator(target, max(len(tokens) for tokens in sources)), [self.model], batch
        )
        found: list[tuple[str, float]] = [("", 0.0)] * len(sources)
        for i, ranked in zip(order, hypotheses, strict=True):
            if ranked:
                found[i] = (_in_one_line(self.task.detokenize(ranked[0]["tokens"].cpu())), float(ranked[0]["score"]))
        return found

    def _generator(self, target: str, num_pieces: int) -> Any:
        """Return fairseq's beam search for a batch whose longest source has ``num_pieces``.

        It strips the target's language token, hence one for each target language.
        """
        if target not in self._generators:
            config = GenerationConfig(beam=self.options.beam, lenpen=self.options.lenpen, max_len_a=0)
            self._generators[target] = self.task.build_generator([self.model], config)
        generator = self._generators[target]
        generator.max_len_b = int(self.options.max_len_a * _rounded_up(num_pieces)) + self.options.max_len_b
        return generator


def _rounded_up(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _batches(lengths: dict[int, int], max_tokens: int) -> Iterator[list[int]]:
    """Group the keys by rounded length, with at most ``max_tokens`` pieces and padding in a batch of several lines."""
    batch: list[int] = []
    for i in sorted(lengths, key=lambda key: lengths[key]):
        if batch and (
            (len(batch) + 1) * lengths[i] > max_tokens or _rounded_up(lengths[batch[0]]) != _rounded_up(lengths[i])
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _in_one_line(text: str) -> str:
    """Replace line breaks, which a model with byte pieces can produce, and which would move all lines after them."""
    return " ".join(text.splitlines())
