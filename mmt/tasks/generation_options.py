"""``--eval-bleu-args``: how validations search for translations."""

import argparse
import dataclasses
import json
from typing import Any

from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmt.errors import UserError, first_line

DEFAULTS = {"beam": 1, "max_len_a": 1.5, "max_len_b": 10}


def validation_search(text: str) -> argparse.Namespace:
    """Return what ``build_generator`` gets for the search that ``--eval-bleu-args`` describes.

    Raises:
        UserError: as ``parse_generation_options``.
    """
    # The language tokens stay: one batch holds several target languages. The detokenizer takes them out.
    return argparse.Namespace(**{**DEFAULTS, **parse_generation_options(text), "keep_inference_langtok": True})


def parse_generation_options(text: str) -> dict[str, Any]:
    """Parse ``--eval-bleu-args``.

    Raises:
        UserError: if it is no JSON dictionary, or names an option that fairseq's generation does not have, or gives one
            a value that it cannot have.
    """
    try:
        options = json.loads(text)
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise UserError(f"--eval-bleu-args must be a JSON dictionary such as '{{\"beam\": 4}}', but is {text!r}")
    known = {field.name for field in dataclasses.fields(GenerationConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UserError(f"--eval-bleu-args: fairseq's generation has no option {unknown[0]!r}")
    config = OmegaConf.structured(GenerationConfig)
    for name, value in options.items():
        try:
            config[name] = value
        except OmegaConfBaseException as error:
            raise UserError(f"--eval-bleu-args: {name}: {first_line(error)}") from error
    values: Any = OmegaConf.to_container(config, enum_to_str=True)
    return {name: values[name] for name in options}
