"""A command's words: the paths among them, spelled out, and what they say of the run that they belong to."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from gan.config import settings
from gan.errors import GANError
from gan.paths import local_path
from gan.spec import FROM_DATA
from gan.trust import named_in

PATHS = ("--config", "-c", "--run_dir", "--resume", "--init", "--ckpt_path")


def plain_paths(words: Sequence[str]) -> list[str]:
    """The words of a command, the paths among them as a shell would spell them out.

    Raises:
        GANError: If one is a URL.
    """
    plain, before = [], ""
    for word in words:
        name, sign, path = word.partition("=")
        if name in PATHS and sign:
            word = f"{name}={local_path(path, name)}"
        elif before in PATHS and not word.startswith("--"):
            word = str(local_path(word, before))
        plain.append(word)
        before = word
    return plain


def given_by(words: Sequence[str]) -> argparse.Namespace:
    """What words, and the configs that they give, say of the run that they belong to.

    Returns:
        `configs`, the paths of those; `run_dir`, `resume` and `ckpt_path`, as they stand there; `init`, that of the
        words alone, since a config may tell by it how its own run began; `trust`, the packages that `--trust` gives,
        and those whose classes the words and the configs name; `names` of the settings that they give, as the command
        line has them; and `rest`, the other words.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", "-c", action=OfConfig, dest="configs", default=[])
    parser.add_argument("--run_dir")
    parser.add_argument("--resume", default="never")
    parser.add_argument("--init")
    parser.add_argument("--ckpt_path")
    parser.add_argument("--trust", action="append", default=[])
    given, given.rest = parser.parse_known_args(words, argparse.Namespace(names=set()))
    given.init = None if given.init == "null" else given.init
    for word, after in pairwise([*given.rest, ""]):
        if word.startswith("--"):
            name, sign, value = word.removeprefix("--").partition("=")
            given.names |= names_in(read(value if sign else after), name)
    values = [word.partition("=")[2] if word.startswith("--") else word for word in given.rest]
    given.trust = {*given.trust, *named_in([*values, *given.configs])}
    return given


class OfConfig(argparse.Action):
    """Takes what a config says of the run, in its turn among the arguments, and leaves the rest to the command."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        namespace.configs = [*namespace.configs, value]
        content = content_of(value)
        namespace.names |= names_in(content)
        for name in ("run_dir", "resume", "ckpt_path"):
            if isinstance(content.get(name), str):
                setattr(namespace, name, content[name])
        trust = content.get("trust") or []
        namespace.trust = [*namespace.trust, *([trust] if isinstance(trust, str) else trust)]


def content_of(config: str) -> dict[str, Any]:
    """What a config says; nothing where it cannot be read: the command's own parser says what is wrong with it."""
    try:
        content = yaml.safe_load(Path(config).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def overridden(words: Sequence[str]) -> Iterator[str]:
    """What to say of each setting that stands before a config which sets it anew: the parser takes what comes last."""
    before: dict[str, str] = {}
    for word, after in pairwise([*words, ""]):
        name, sign, value = word.partition("=")
        if name in ("--config", "-c"):
            config = value if sign else after
            for key in sorted(names_in(content_of(config)) & before.keys()):
                yield f"{before.pop(key)} does nothing before {name} {config}, which sets it too: put it behind"
        elif word.startswith("--"):
            before[name.removeprefix("--").removesuffix("+").replace(".init_args", "")] = name


def read(value: str) -> Any:
    """A value as YAML, where it is."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def names_in(config: Any, name: str = "") -> set[str]:
    """The names of the settings that a config gives, as the command line has them."""
    return {key.replace(".init_args", "") for key, value in settings(config, name).items() if value is not None}


def check_given(names: set[str], command: str) -> None:
    """Refuses settings that would do nothing, since something else decides there.

    Raises:
        GANError: If there is one, with what decides.
    """
    ways = {
        "model.seed": "--seed_everything seeds all of a run",
        "data.seed": "--seed_everything seeds all of a run",
        "trainer.default_root_dir": "--run_dir says where a run writes" if command == "fit" else "nothing is written",
    }
    for network in ("generator", "discriminator"):
        ways |= {f"model.{network}.{name}": f"the data's {name} is taken" for name in FROM_DATA}
    for name in sorted(names & ways.keys()):
        raise GANError(f"--{name} would do nothing: {ways[name]}. Leave it out")
