"""Score one loaded model in many directions, one after the other, so that a kill costs at most one of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmt.evaluation.baselines import COPY, NEAREST, Baselines
from mmt.evaluation.directions import choose_directions, split
from mmt.evaluation.results import Record, ResultsFolder
from mmt.evaluation.scores import Scores, score
from mmt.evaluation.test_sets import TestSet
from mmt.files import sha256_of_lines
from mmt.inference.translator import Translator
from mmt.sharing import Claims


@dataclass(frozen=True)
class Job:
    """One direction of one test set."""

    test_set: str
    direction: str
    sources: list[str]
    references: list[str]
    source_sha256: str
    reference_sha256: str

    @property
    def text_sha256(self) -> str:
        """What identifies the text of both sides."""
        return f"{self.source_sha256}|{self.reference_sha256}"


def plan(
    test_sets: Sequence[TestSet],
    specification: str,
    *,
    languages: Sequence[str],
    trained: Sequence[str],
    max_segments: int | None = None,
) -> list[Job]:
    """Read the text of all directions to score: what is wrong with any file is known before the first translation.

    Raises:
        UserError: names the option, file or language that is wrong.
    """
    jobs = []
    for test_set in test_sets:
        for direction in choose_directions(specification, languages=languages, trained=trained, test_set=test_set):
            sources, references = test_set.read(*split(direction), max_segments)
            jobs.append(
                Job(
                    test_set.name, direction, sources, references, sha256_of_lines(sources), sha256_of_lines(references)
                )
            )
    return jobs


def translate_and_score(
    job: Job, translator: Translator, on_batch: Callable[[int], object] | None = None
) -> tuple[Record, list[str]]:
    """Translate and score one direction; return the line for ``scores.jsonl`` and the hypotheses."""
    start = time.monotonic()
    source, target = split(job.direction)
    translations = translator.translate_window(job.sources, source, target, on_batch=on_batch)
    wall_s = time.monotonic() - start
    hypotheses = [translation.text for translation in translations]
    scores = score(hypotheses, job.references, target)
    record = {
        "test_set": job.test_set,
        "direction": job.direction,
        "trained": job.direction in translator.trained_directions,
        **rounded(scores),
        "segments": len(hypotheses),
        "empty_hypotheses": sum(not line for line in hypotheses),
        "too_long_sources": sum(translation.too_long for translation in translations),
        "wall_s": round(wall_s, 2),
        "source_sha256": job.source_sha256,
        "reference_sha256": job.reference_sha256,
    }
    return record, hypotheses


def rounded(scores: Scores) -> Record:
    """Return the scores with as many digits as mean something."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(scores).items()}


def evaluate(
    jobs: Sequence[Job],
    translator: Translator,
    results: ResultsFolder,
    *,
    on_direction: Callable[[Job, bool], object],
    on_batch: Callable[[int], object],
) -> list[Record]:
    """Score all directions that are not finished yet, and return the records of all, in order.

    Several processes may do this at a time with the same folder of results.

    Args:
        jobs: from ``plan``.
        translator: the model.
        results: where the records go.
        on_direction: called before each direction, with whether it is finished already.
        on_batch: called after each batch with its number of segments.
    """

    def is_finished(job: Job) -> bool:
        return results.finished(job.test_set, job.direction, job.source_sha256, job.reference_sha256)

    # Asked for all directions first: text that has changed is refused before hours of work, not after.
    todo: dict[str, Job] = {}
    for job in jobs:
        if is_finished(job):
            on_direction(job, True)
        else:
            todo[f"{job.test_set}.{job.direction}"] = job
    for name in Claims(results.claims_path).in_turn(todo):
        job = todo[name]
        results.read_again()
        was_finished = is_finished(job)  # by another process
        on_direction(job, was_finished)
        if not was_finished:
            results.add(*translate_and_score(job, translator, on_batch))
    return [results.records[job.test_set, job.direction] for job in jobs]


def score_baselines(
    jobs: Sequence[Job], baselines: Baselines, on_job: Callable[[], object]
) -> dict[str, dict[tuple[str, str], Scores]]:
    """Score the baselines of each direction: by name of the baseline, then by test set and direction."""
    found: dict[str, dict[tuple[str, str], Scores]] = {COPY: {}, NEAREST: {}}
    for job in jobs:
        key = (job.test_set, job.direction)
        text = (job.sources, job.references, job.direction, job.text_sha256)
        found[COPY][key] = baselines.copy_source(*text)
        nearest = baselines.nearest_sentence(*text)
        if nearest is not None:
            found[NEAREST][key] = nearest
        on_job()
    return found


def default_text_folder(data: Path) -> Path | None:
    """Return the folder of plain text beside a folder of binarized data (``text`` beside ``bin``), if it is there."""
    text = data.parent / "text"
    return text if text.is_dir() else None
