"""The small files of a data folder without which a checkpoint is of no use; a run keeps them beside its checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from mmt.files import write_bytes

DICTIONARY, SENTENCEPIECE, LANGUAGES, DIRECTIONS = "dict.txt", "spm.model", "lang_list.txt", "lang_pairs.txt"
FILES = (DICTIONARY, SENTENCEPIECE, LANGUAGES, DIRECTIONS)

Contents = dict[str, bytes]


def read_vocabulary(data: Path, dictionary: Path, languages: Sequence[str], directions: Sequence[str]) -> Contents:
    """Return the content of each file, as it is now: the data folder may be prepared anew while a training runs.

    Args:
        data: the data folder.
        dictionary: of all languages.
        languages: those of the model, in order.
        directions: those that are trained.
    """
    # The one that need not be there comes first, so that a run that has the others has all that there are.
    optional = {SENTENCEPIECE: (data / SENTENCEPIECE).read_bytes()} if (data / SENTENCEPIECE).is_file() else {}
    return {
        **optional,
        DICTIONARY: dictionary.read_bytes(),
        LANGUAGES: "".join(f"{language}\n" for language in languages).encode(),
        DIRECTIONS: (",".join(directions) + "\n").encode(),
    }


def write_vocabulary(contents: Contents, folder: Path) -> None:
    """Write those files into ``folder`` that are not there, or are others."""
    for name, content in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def holds_vocabulary(folder: Path) -> bool:
    """Tell whether a run has kept its vocabulary in ``folder``."""
    return all((folder / name).is_file() for name in (DICTIONARY, LANGUAGES, DIRECTIONS))
