"""fairseq's configuration as arguments of ``fairseq-train``: only what differs from its defaults, and nothing lost."""

import argparse
import functools
import warnings
from dataclasses import Field, fields
from typing import Any

from fairseq import options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.registry import REGISTRIES
from omegaconf import DictConfig, OmegaConf

from mmt.errors import UserError, as_typed
from mmt.recipes import section_dataclass


def fairseq_train_arguments(config: DictConfig) -> list[str]:
    """Return the arguments that make ``fairseq-train`` run with ``config``.

    They are parsed back by fairseq and compared with ``config``, so they never mean anything else.

    Args:
        config: a complete and resolved configuration, as ``recipes.compose`` returns it.

    Raises:
        UserError: if a value cannot be said on the command line.
    """
    arguments = _selectors(config)
    parser, parsed = _parse(tuple(arguments))
    actions = {action.dest: action for action in parser._actions}
    wanted = _values(config)
    _refuse_contradictions(wanted, actions)
    # Options that usually follow from another one, such as --max-tokens-valid, are said only if they do not follow.
    for also_derived in (False, True):
        missing = [key for key in _different(wanted, parsed) if _name(key) in actions]
        for key in {_name(key): key for key in missing if also_derived or not _is_derived(config, key)}.values():
            arguments += _argument(actions[_name(key)], wanted[key], key)
        parsed = _parse(tuple(arguments))[1]
    different = [f"{key}={wanted[key]}" for key in _different(wanted, parsed)]
    if different:
        raise UserError(
            f"fairseq-train cannot be told {', '.join(different)}; leave it out, or use fairseq-hydra-train"
        )
    return arguments


def _different(wanted: dict[str, Any], parsed: dict[str, Any]) -> list[str]:
    return [key for key, value in wanted.items() if not _same(parsed.get(key), value)]


def _name(key: str) -> str:
    """Return the name that an option has in argparse: the key without its section."""
    return key.partition(".")[2]


def _refuse_contradictions(wanted: dict[str, Any], actions: dict[str, argparse.Action]) -> None:
    said: dict[str, tuple[str, Any]] = {}
    for key, value in wanted.items():
        first_key, first_value = said.setdefault(_name(key), (key, value))
        if _name(key) in actions and not _same(first_value, value):
            option = _option(actions[_name(key)])
            raise UserError(
                f"{first_key}={first_value}, but {key}={value}: fairseq-train has one option {option} for both"
            )


def _selectors(config: DictConfig) -> list[str]:
    """The arguments on which it depends which other options there are."""
    arguments = [config.task.data, "--user-dir", config.common.user_dir]
    arguments += ["--task", config.task._name, "--arch", config.model._name]
    for registry in REGISTRIES:
        node = config.get(registry)
        name = node._name if isinstance(node, DictConfig) else node
        if name is not None:
            arguments += [as_typed(registry), name]
        if isinstance(node, DictConfig):
            # argparse knows no default that refers to another option, such as the --total-num-update of schedules:
            # where fairseq's conversion does not fill it in by its name, it must be said, or fairseq refuses it.
            for field in fields(section_dataclass(registry, name)):
                if _refers_to_another_name(field):
                    arguments += [as_typed(field.name), str(node[field.name])]
    return arguments


def _refers_to_another_name(field: Field[Any]) -> bool:
    default = field.default
    return isinstance(default, str) and default.startswith("${") and not default.endswith(f".{field.name}}}")


@functools.lru_cache(maxsize=8)
def _parse(arguments: tuple[str, ...]) -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    """Let fairseq parse ``arguments``; return its parser, which then has all options, and the values by key."""
    with warnings.catch_warnings():
        # fairseq uses Hydra in ways that Hydra calls outdated, and says so ten times.
        warnings.simplefilter("ignore", UserWarning)
        parser = options.get_training_parser()
        namespace = options.parse_args_and_arch(parser, list(arguments))
        return parser, _values(convert_namespace_to_omegaconf(namespace))


def _same(left: Any, right: Any) -> bool:
    """Compare values, where tuples and lists, 1 and 1.0, an enum and its value are the same."""
    return _plain(left) == _plain(right)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _option(action: argparse.Action) -> str:
    return max(action.option_strings, key=len, default=action.dest)


def _argument(action: argparse.Action, value: Any, key: str) -> list[str]:
    option = _option(action)
    if action.nargs == 0:  # a flag
        if value != action.const:
            raise UserError(f"{key}={value}: fairseq-train can only switch it the other way, with {option}")
        return [option]
    if value is None:
        raise UserError(f"{key}=null: fairseq-train cannot unset {option}, whose default is {action.default!r}")
    # fairseq reads lists as Python, so that text in them needs quotes: "['a','b']", but "0.1,0.2".
    text = ",".join(map(repr, value)) if isinstance(value, list) else str(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]


def _is_derived(config: DictConfig, key: str) -> bool:
    """Tell whether an option's default is a reference to another option."""
    section, _, name = key.partition(".")
    default = section_dataclass(section, config[section].get("_name")).__dataclass_fields__[name].default
    return isinstance(default, str) and default.startswith("${")


def _values(config: DictConfig) -> dict[str, Any]:
    """Map ``section.key`` to its value, for every section and every option of it."""
    values: dict[str, Any] = {}
    for section in FairseqConfig.__dataclass_fields__:
        node = config.get(section)
        if isinstance(node, DictConfig):
            # A configuration made from parsed arguments holds the whole namespace of fairseq's older sections.
            known = {field.name for field in fields(section_dataclass(section, node.get("_name")))}
            container: Any = OmegaConf.to_container(node)
            values |= {f"{section}.{key}": value for key, value in container.items() if key in known}
        else:
            values[section] = node
    return values
