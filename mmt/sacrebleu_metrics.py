"""Which sacreBLEU tokenizer BLEU uses for a target language."""

import importlib.util

# Scripts without spaces between words for which sacreBLEU has no word tokenizer.
CHARACTER_LANGUAGES = frozenset({"th", "lo", "km", "my", "bo", "dz"})
_NEEDED_MODULE = {"ja-mecab": "MeCab", "ko-mecab": "mecab_ko"}


def tokenizer_for_language(language: str) -> str:
    """Return the name of the tokenizer: "zh", "ja-mecab", "ko-mecab", "char" or "13a".

    Japanese and Korean fall back to "char" where `sacrebleu[ja]`, `sacrebleu[ko]` are not installed; the signature of
    every score tells which was used.

    Args:
        language: a code such as "de", "zh_CN" or "zho_Hans".
    """
    code = language.replace("-", "_").split("_")[0].lower()
    code = {"zho": "zh", "jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km", "mya": "my"}.get(code, code)
    if code == "zh":
        return "zh"
    if code in ("ja", "ko"):
        tokenizer = f"{code}-mecab"
        return tokenizer if importlib.util.find_spec(_NEEDED_MODULE[tokenizer]) else "char"
    return "char" if code in CHARACTER_LANGUAGES else "13a"
