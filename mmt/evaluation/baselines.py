"""What a system must beat: copying the source, and the translation of the most similar training sentence."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sacrebleu

from mmt.errors import UserError
from mmt.evaluation.directions import split
from mmt.evaluation.nearest import nearest_sentences
from mmt.evaluation.scores import Scores, score
from mmt.evaluation.test_sets import read_lines
from mmt.files import locked, sha256_of_file, write_text
from mmt.sacrebleu_metrics import tokenizer_for_language

COPY, NEAREST = "copy source", "nearest training sentence"


class Baselines:
    """Scores of the baselines, kept in a JSON file.

    Args:
        cache: the file; it may be shared by the results of several models.
        train_text: folder with ``train.en-xx.{en,xx}``, or None: then there is no nearest sentence.

    Raises:
        UserError: if ``train_text`` is given, but holds no such files.
    """

    def __init__(self, cache: Path, train_text: Path | None) -> None:
        self._cache = cache
        self._train_text = train_text
        if train_text is not None and not any(train_text.glob("train.*-*.*")):
            raise UserError(f"--train-text {train_text}: no files train.en-xx.en and train.en-xx.xx in it")
        self._known: dict[str, Any] = _read_cache(cache)
        self._train_sha256: dict[str, str] = {}

    def copy_source(
        self, sources: Sequence[str], references: Sequence[str], direction: str, text_sha256: str
    ) -> Scores:
        """Score the source as if it were the translation."""
        return self._cached(f"{COPY}|{direction}|{text_sha256}", lambda: list(sources), references, direction)

    def nearest_sentence(
        self, sources: Sequence[str], references: Sequence[str], direction: str, text_sha256: str
    ) -> Scores | None:
        """Score the translations of the most similar training sentences.

        Returns:
            None if there is no training text of the two languages.
        """
        files = self._train_files(direction)
        if files is None:
            return None

        def hypotheses() -> list[str]:
            train_sources, train_targets = (read_lines(path) for path in files)
            if len(train_sources) != len(train_targets):
                raise UserError(
                    f"--train-text: {files[0]} has {len(train_sources)} lines, but {files[1]} has {len(train_targets)}"
                )
            return [train_targets[i] for i in nearest_sentences(sources, train_sources)]

        sha256 = "|".join(self._sha256(path) for path in files)
        return self._cached(f"{NEAREST}|{direction}|{text_sha256}|{sha256}", hypotheses, references, direction)

    def _train_files(self, direction: str) -> tuple[Path, Path] | None:
        if self._train_text is None:
            return None
        source, target = split(direction)
        for pair in (f"{source}-{target}", f"{target}-{source}"):
            files = self._train_text / f"train.{pair}.{source}", self._train_text / f"train.{pair}.{target}"
            if files[0].is_file() and files[1].is_file():
                return files
        return None

    def _sha256(self, path: Path) -> str:
        if str(path) not in self._train_sha256:
            self._train_sha256[str(path)] = sha256_of_file(path)
        return self._train_sha256[str(path)]

    def _cached(
        self, key: str, hypotheses: Callable[[], list[str]], references: Sequence[str], direction: str
    ) -> Scores:
        target = split(direction)[1]
        key = f"{key}|{tokenizer_for_language(target)}|sacrebleu {sacrebleu.__version__}"
        if key not in self._known:
            scores = asdict(score(hypotheses(), references, target))
            with locked(self._cache):
                # What other evaluations have written meanwhile stays.
                self._known = {**_read_cache(self._cache), key: scores}
                write_text(self._cache, json.dumps(self._known, indent=1, ensure_ascii=False) + "\n")
        return Scores(**self._known[key])


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in known.items() if Scores(**value)}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a file of baseline scores; remove it, and they are computed anew") from error
