"""A toy corpus that a tiny model learns in seconds: English number words, reversed ("aa") and copied ("bb")."""

import random
from pathlib import Path

from fairseq.data import Dictionary, indexed_dataset

WORDS = [f"w{i}" for i in range(12)]
LANGUAGES = ["en", "aa", "bb"]


def toy_pairs(count: int, seed: int, transform: str) -> list[tuple[list[str], list[str]]]:
    """Return ``count`` sentence pairs of 2 to 6 words; ``transform`` is "aa" (reversed) or "bb" (copied)."""
    rng = random.Random(seed)
    sources = [[rng.choice(WORDS) for _ in range(rng.randint(2, 6))] for _ in range(count)]
    return [(source, source[::-1] if transform == "aa" else list(source)) for source in sources]


def write_toy_data(folder: Path, train_size: int = 2000, valid_size: int = 40) -> Path:
    """Binarize the toy corpus for en-aa and en-bb into ``folder``, in the layout that the task reads."""
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary()
    for word in WORDS:
        dictionary.add_symbol(word)
    dictionary.save(str(folder / "dict.txt"))
    for number, language in enumerate(LANGUAGES[1:]):
        for split, size in (("train", train_size), ("valid", valid_size)):
            pairs = toy_pairs(size, seed=10 * number + (split == "valid"), transform=language)
            for side, sentences in (("en", [pair[0] for pair in pairs]), (language, [pair[1] for pair in pairs])):
                prefix = str(folder / f"{split}.en-{language}.{side}")
                builder = indexed_dataset.make_builder(prefix + ".bin", impl="mmap", vocab_size=len(dictionary))
                for sentence in sentences:
                    builder.add_item(dictionary.encode_line(" ".join(sentence), add_if_not_exist=False).long())
                builder.finalize(prefix + ".idx")
    (folder / "lang_list.txt").write_text("\n".join(LANGUAGES) + "\n")
    (folder / "lang_pairs.txt").write_text("en-aa,aa-en,en-bb,bb-en\n")
    return folder
