"""A tiny model with a SentencePiece vocabulary, trained for seconds: bad translations, but of every kind."""

import random
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary, indexed_dataset

from tests.system.commands import train

LANGUAGES = ["en", "de", "ru"]
PAIRS = ["en-de", "en-ru"]
WORDS = ["open", "close", "window", "file", "print", "page", "new", "old", "save", "name", "list", "text"]
CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшжыз")
MAX_POSITIONS = 64


def sentence(language: str, words: list[str]) -> str:
    """Say English words in one of the languages: German turns them around, Russian writes them in Cyrillic."""
    if language == "de":
        return " ".join(word[::-1].capitalize() for word in words) + "."
    return (" ".join(words).translate(CYRILLIC) if language == "ru" else " ".join(words)).capitalize() + "."


def aligned_text(num_lines: int, seed: int) -> dict[str, list[str]]:
    """Return the same random sentences in every language."""
    rng = random.Random(seed)
    drawn = [[rng.choice(WORDS) for _ in range(rng.randint(1, 6))] for _ in range(num_lines)]
    return {language: [sentence(language, words) for words in drawn] for language in LANGUAGES}


def write_lines(path: Path, lines: list[str]) -> None:
    """Write lines of text."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write ``text/`` and ``bin/`` with a vocabulary that has byte pieces."""
    text, data = folder / "text", folder / "bin"
    text.mkdir(parents=True)
    data.mkdir()
    splits = {"train": aligned_text(200, seed=1), "valid": aligned_text(4, seed=2), "test": aligned_text(12, seed=3)}
    for split, lines in splits.items():
        for pair in PAIRS:
            for language in pair.split("-"):
                write_lines(text / f"{split}.{pair}.{language}", lines[language])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for lines in splits["train"].values() for line in lines]),
        model_prefix=str(data / "spm"),
        vocab_size=340,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    spm = sentencepiece.SentencePieceProcessor(model_file=str(data / "spm.model"))
    dictionary = Dictionary()
    for i in range(spm.get_piece_size()):
        if not spm.is_control(i) and not spm.is_unknown(i):
            dictionary.add_symbol(spm.id_to_piece(i))
    dictionary.save(str(data / "dict.txt"))
    for split in ("train", "valid"):
        for pair in PAIRS:
            for language in pair.split("-"):
                prefix = str(data / f"{split}.{pair}.{language}")
                builder = indexed_dataset.make_builder(prefix + ".bin", impl="mmap", vocab_size=len(dictionary))
                for line in splits[split][language]:
                    pieces = " ".join(spm.encode(line, out_type=str))
                    builder.add_item(dictionary.encode_line(pieces, add_if_not_exist=False).long())
                builder.finalize(prefix + ".idx")
    write_lines(data / "lang_list.txt", LANGUAGES)
    (data / "lang_pairs.txt").write_text("en-de,de-en,en-ru,ru-en\n")


def write_tiny_model(folder: Path) -> Path:
    """Write data and train; return ``folder``, with ``run/``, ``bin/``, ``text/`` and the multi-way ``multi/``."""
    write_data(folder)
    (folder / "multi").mkdir()
    for language, lines in aligned_text(12, seed=3).items():
        write_lines(folder / "multi" / f"news.{language}", lines)
    size = [
        "--encoder-embed-dim",
        "32",
        "--encoder-ffn-embed-dim",
        "32",
        "--max-source-positions",
        MAX_POSITIONS,
        "--max-target-positions",
        MAX_POSITIONS,
    ]
    routing = ["--moe-experts", "2", "--encoder-routing", "token", "--decoder-routing", "task"]
    train(
        folder / "bin",
        folder / "run",
        *size,
        *routing,
        "--max-update",
        "200",
        "--warmup-updates",
        "50",
        "--disable-validation",
        "--no-progress-bar",
        "--seed",
        "1",
    )
    return folder
