"""From target token ids back to plain text."""

from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary
from torch import Tensor

from mmt.errors import UserError


def load_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor | None:
    """Load the SentencePiece model in ``path``, if there is one.

    Raises:
        UserError: if the file is not a SentencePiece model.
    """
    if not path.is_file():
        return None
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path}: not a SentencePiece model") from error


class Detokenizer:
    """Puts pieces of words together.

    Args:
        dictionary: of the target languages.
        language_tokens: dictionary indices that are no text.
        spm: the model that cut the text; without one, pieces are told from words by their marks.
    """

    def __init__(
        self, dictionary: Dictionary, language_tokens: set[int], spm: sentencepiece.SentencePieceProcessor | None
    ) -> None:
        self.dictionary = dictionary
        self.spm = spm
        self._no_text = language_tokens | {dictionary.pad(), dictionary.eos(), dictionary.bos()}

    def __call__(self, tokens: Tensor) -> str:
        """Turn token ids ``(S,)`` into plain text, without language tokens, end-of-sentence and padding."""
        pieces = [self.dictionary[int(token)] for token in tokens if int(token) not in self._no_text]
        if self.spm is not None:
            return self.spm.decode_pieces(pieces)
        if any("\u2581" in piece for piece in pieces):
            return "".join(pieces).replace("\u2581", " ").strip()
        return (" ".join(pieces) + " ").replace("@@ ", "").rstrip()  # what subword-nmt has cut
