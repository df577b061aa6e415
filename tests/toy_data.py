"""A toy corpus that a tiny model learns in seconds: sentences of English "words", reversed in language "aa" and in the
same order in "bb".
"""

import random
from pathlib import Path

from fairseq.data import Dictionary, indexed_dataset

LANGUAGES = ["en", "aa", "bb"]
WORDS_PER_LANGUAGE = 8


def toy_pairs(count: int, seed: int, language: str) -> list[tuple[list[str], list[str]]]:
    """Return ``count`` pairs of an English sentence of 3 to 5 words and its translation into "aa" or "bb"."""
    rng = random.Random(seed)
    numbers = [[rng.randrange(WORDS_PER_LANGUAGE) for _ in range(rng.randint(3, 5))] for _ in range(count)]
    return [
        ([f"en{n}" for n in sentence], [f"{language}{n}" for n in (sentence[::-1] if language == "aa" else sentence)])
        for sentence in numbers
    ]


def write_toy_data(folder: Path, train_size: int = 2000, valid_size: int = 40) -> Path:
    """Binarize the toy corpus for en-aa and en-bb into ``folder``, in the layout that the task reads."""
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary()
    for language in LANGUAGES:
        for number in range(WORDS_PER_LANGUAGE):
            dictionary.add_symbol(f"{language}{number}")
    dictionary.save(str(folder / "dict.txt"))
    for seed, language in enumerate(LANGUAGES[1:]):
        for split, size in (("train", train_size), ("valid", valid_size)):
            pairs = toy_pairs(size, seed=10 * seed + (split == "valid"), language=language)
            for side, sentences in (("en", [pair[0] for pair in pairs]), (language, [pair[1] for pair in pairs])):
                prefix = str(folder / f"{split}.en-{language}.{side}")
                builder = indexed_dataset.make_builder(prefix + ".bin", impl="mmap", vocab_size=len(dictionary))
                for sentence in sentences:
                    builder.add_item(
                        dictionary.encode_line(" ".join(sentence), add_if_not_exist=False, append_eos=True).long()
                    )
                builder.finalize(prefix + ".idx")
    (folder / "lang_list.txt").write_text("\n".join(LANGUAGES) + "\n")
    (folder / "lang_pairs.txt").write_text("en-aa,aa-en,en-bb,bb-en\n")
    return folder
