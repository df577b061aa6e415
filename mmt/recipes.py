"""Recipes: folders with fairseq's own Hydra configuration, turned into one checked configuration.

A recipe is a folder with ``train.yaml``, whose groups (``model/``, ``run/``, ...) are folders of YAML files, its own or
those of ``recipes/common``. ``fairseq-hydra-train --config-dir recipes/software50 --config-name train model=task``
trains it without mmt's help; ``compose`` here makes the same configuration and finds the mistakes that Hydra would let
pass or report in its own terms.
"""

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmt.errors import UserError
from mmt.models.architectures import ARCHITECTURES

CONFIG_NAME = "train"
COMMON = "common"


def recipe_folder(name_or_path: str, recipes: Path = Path("recipes")) -> Path:
    """Find a recipe by its name in ``recipes`` or by the path of its folder.

    Raises:
        UserError: names the recipes that there are.
    """
    for folder in (Path(name_or_path), recipes / name_or_path):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    known = sorted(path.parent.name for path in recipes.glob(f"*/{CONFIG_NAME}.yaml"))
    where = f"recipes are {', '.join(known)}" if known else f"no recipes in {recipes}; run from the repository's root"
    wanted = f"no {CONFIG_NAME}.yaml in that folder or in {recipes / name_or_path}"
    raise UserError(f"recipe {name_or_path!r}: {wanted}; {where}")


def groups(folder: Path) -> dict[str, list[str]]:
    """List the recipe's groups and the choices of each, its own and the common ones."""
    found: dict[str, set[str]] = {}
    for root in (folder, folder.parent / COMMON):
        for path in root.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(choices) for group, choices in sorted(found.items())}


def compose(folder: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a recipe into fairseq's complete configuration, with every default and every reference filled in.

    Args:
        folder: the recipe.
        overrides: ``group=choice`` and ``section.key=value``, as for ``fairseq-hydra-train``; a key need not be in the
            recipe's files.

    Raises:
        UserError: for an unknown group, choice, section or key, or a value of the wrong type.
    """
    choices, values = _split(folder, overrides)
    config = _compose(folder, choices)
    where = f"recipe {folder.name}: "
    _check_keys(config, where)
    if values:
        names = {key.removesuffix("._name"): value for key, value in values.items() if key.endswith("._name")}
        for key in values:
            _check_key(config, key, names)
        # "++": the key may be in the recipe's files or not. Hydra alone would refuse a valid key that no file mentions.
        config = _compose(folder, choices + [f"++{key}={_quoted(value)}" for key, value in values.items()])
        _check_keys(config, where)
    try:
        add_defaults(config)
        with omegaconf_no_object_check():
            plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True, throw_on_missing=True)
            return DictConfig(plain)
    except OmegaConfBaseException as error:
        raise UserError(f"recipe {folder.name}: {_in_one_line(error)}") from error


def _split(folder: Path, overrides: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Part the overrides into choices of groups and values of keys."""
    known = groups(folder)
    choices: list[str] = []
    values: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.lstrip("+")
        if not equals:
            raise UserError(f"{override!r} is not of the form group=choice or section.key=value")
        if "." in key:
            values[key] = value
        elif key not in known:
            hint = f"{_near(key, known)}; recipe {folder.name} has {', '.join(known)}"
            raise UserError(f"unknown group {key!r} in {override!r}{hint}")
        elif value not in known[key] and not (key == "model" and value in ARCHITECTURES):
            hint = f"{_near(value, known[key])}; {key} can be {', '.join(known[key])}"
            raise UserError(f"unknown choice {value!r} in {override!r}{hint}")
        else:
            choices.append(override)
    return choices, values


def _quoted(value: str) -> str:
    """Quote text with commas, such as ``en-de,de-en``, which to Hydra is a list of values to try in turn."""
    if "," not in value or value[0] in "[{'\"":
        return value
    return "'" + value.replace("'", "\\'") + "'"


def _compose(folder: Path, overrides: list[str]) -> DictConfig:
    """Compose as ``fairseq-hydra-train`` does, without the defaults of task, model, criterion and so on."""
    hydra_init(CONFIG_NAME)
    GlobalHydra.instance().clear()
    # The files name the common folder relative to the repository's root; here it is found from everywhere.
    search_path = f"hydra.searchpath=[file://{(folder.parent / COMMON).resolve()}]"
    try:
        with warnings.catch_warnings():
            # Both warn of what fairseq 0.12.3 does: it needs Hydra's behaviour of version 1.1, a setting of the whole
            # process, and stores the dataclass that checks the keys under the name of the configuration.
            warnings.filterwarnings("ignore", message=r"\s*version_base=", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"(?s).*is validated against ConfigStore", category=UserWarning)
            with initialize_config_dir(str(folder.resolve()), version_base="1.1"):
                config = hydra_compose(CONFIG_NAME, [search_path, *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"recipe {folder.name}: {_in_one_line(error.__cause__ or error)}") from error
    HydraConfig.instance().set_config(config)  # for references such as ${hydra:runtime.choices.model}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config


def _check_keys(config: DictConfig, where: str) -> None:
    """Check all keys; those of the sections whose options depend on a name have been checked by nobody else."""
    for section in map(str, config):
        if isinstance(config[section], DictConfig):
            for key in map(str, config[section]):
                _check_key(config, f"{section}.{key}", {}, where)


def _check_key(config: DictConfig, dotted: str, names: dict[str, str], where: str = "") -> None:
    """Check one key; ``names`` are the new ``_name`` of sections, where they differ from those in ``config``."""
    section, key = dotted.split(".", 1)
    sections = sorted(name for name in FairseqConfig.__dataclass_fields__ if not name.startswith("_"))
    if section not in sections:
        hint = f"{_near(section, sections)}; sections are {', '.join(sections)}"
        raise UserError(f"{where}unknown section {section!r} in {dotted!r}{hint}")
    node = config[section]
    name = names.get(section, node.get("_name") if isinstance(node, DictConfig) else node)
    known = [field.name for field in fields(section_dataclass(section, name))]
    if key not in known:
        of = f"{section} {name}" if name else f"section {section}"
        raise UserError(f"{where}unknown key {dotted!r}: {of} has no option {key!r}{_near(key, known)}")


def section_dataclass(section: str, name: str | None) -> Any:
    """Return the dataclass of a section of fairseq's configuration.

    Args:
        section: such as ``optimization`` or ``model``.
        name: the ``_name`` in it, for the sections where it decides.

    Raises:
        UserError: if the section needs a name, and there is no dataclass of that name.
    """
    own = FairseqConfig.__dataclass_fields__[section].type
    if own is not Any:
        return own
    registry = {"task": TASK_DATACLASS_REGISTRY, "model": MODEL_DATACLASS_REGISTRY}.get(section)
    if registry is None:
        registry = REGISTRIES[section]["dataclass_registry"]
    registered = ARCH_MODEL_NAME_REGISTRY.get(name, name) if section == "model" else name
    if registered not in registry:
        hint = f"{_near(str(name), registry)}; known are {', '.join(sorted(registry))}"
        raise UserError(f"{section}._name: unknown {section} {name!r}{hint}")
    return registry[registered]


def _near(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, [name for name in known if name != "_name"], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _in_one_line(error: BaseException) -> str:
    lines = [line.strip().replace("full_key:", "key:") for line in str(error).splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith(("object_type", "reference_type")))
