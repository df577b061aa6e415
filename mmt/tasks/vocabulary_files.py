"""The small files of a data folder without which a checkpoint is of no use; a run keeps them beside its checkpoints."""

from pathlib import Path
from typing import Any

from mmt.files import write_bytes

DICTIONARY, SENTENCEPIECE, LANGUAGES, DIRECTIONS = "dict.txt", "spm.model", "lang_list.txt", "lang_pairs.txt"
FILES = (DICTIONARY, SENTENCEPIECE, LANGUAGES, DIRECTIONS)


def keep_vocabulary(task: Any, folder: Path) -> None:
    """Write what goes with the model of ``task`` into ``folder``: dictionary, SentencePiece model and languages.

    The data folder may be prepared anew with other text, and then no longer fits. A task with two dictionaries, which
    have no place in a data folder, keeps nothing.
    """
    data = Path(task.args.data.split(":")[0])
    if task.args.fixed_dictionary is None or data.resolve() == folder.resolve():
        return
    contents = {
        DICTIONARY: Path(task.args.fixed_dictionary).read_bytes(),
        LANGUAGES: "".join(f"{language}\n" for language in task.langs).encode(),
        DIRECTIONS: (",".join(task.trained_lang_pairs) + "\n").encode(),
    }
    if (data / SENTENCEPIECE).is_file():
        contents[SENTENCEPIECE] = (data / SENTENCEPIECE).read_bytes()
    for name, content in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def holds_vocabulary(folder: Path) -> bool:
    """Tell whether a run has kept its vocabulary in ``folder``."""
    return all((folder / name).is_file() for name in (DICTIONARY, LANGUAGES, DIRECTIONS))
