"""The command line: `visalign COMMAND …`. Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 a run failed for a reason that is told; 2 something given cannot be used, told in one line with
the mend; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from .. import __version__
from . import words

COMMANDS = (  # modules of this folder, in the order of the help
    "demo", "train", "generate", "guided", "answer", "label", "judge", "caption", "hallucinate", "distill",
    "sets", "rounds", "score", "scorers", "serve", "users", "evaluate", "compare", "playground", "data", "names",
)  # fmt: skip
# Errors that speak to the user, by where they are defined: a module that was never imported cannot have raised one.
GIVEN_WRONG = (
    ("visalign.cli.words", "UsageError"),
    ("visalign.config", "ConfigError"),
    ("visalign.registry", "UnknownName"),
    ("visalign.registry", "BadSetting"),
    ("visalign.images", "ImageError"),
    ("visalign.records", "DataError"),
    ("visalign.models.folder", "FolderError"),
    ("visalign.models.states", "WeightsError"),
    ("visalign.models.attention", "AttentionError"),
    ("visalign.diffusion.source", "SpecError"),
    ("visalign.evaluation.comparison", "CannotJudge"),
    ("visalign.apps.safety", "Refused"),
    *(("builtins", name) for name in ("FileNotFoundError", "FileExistsError", "NotADirectoryError")),
    *(("builtins", name) for name in ("IsADirectoryError", "PermissionError")),
)
RUN_FAILED = (
    ("builtins", "OSError"),  # a full disk, a network file system that went away
    ("visalign.training.checkpoint", "CheckpointError"),
    ("visalign.training.engine", "NonFiniteError"),
    ("visalign.training.learner", "NonFiniteError"),
    ("visalign.scorers.endpoint", "EndpointError"),
)


class Parser(argparse.ArgumentParser):
    """argparse whose errors say what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print one line and the way to the help, and exit with 2."""
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            known = re.findall(r"[\w-]+", found[2])
            near = get_close_matches(found[1], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            message = f"there is no {found[1]!r}{hint} Known: {', '.join(known)}"
        print(f"visalign: {message.rstrip('.')} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parser() -> Parser:
    """The parser of every command."""
    top = Parser(
        prog="visalign",
        description="Preference alignment for models that draw and models that see: from preferences to a better one.",
        epilog="start here:\n"
        "  visalign demo                         a model that draws\n"
        "  visalign train playground_mllm_dpo    one that sees; it goes on in docs/mllm.md\n"
        "every command answers to --help with an example",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"visalign {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS:
        pkgutil.resolve_name(f"{__name__}.{name}:add")(commands)  # the registry would load what --help can do without
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; a bug keeps its traceback, everything else is one line."""
    quieten()
    try:
        given, rest = parser().parse_known_args(argv)
        given.rest = accepted(given, rest)
        code: int = given.run(given)
    except KeyboardInterrupt:
        print("visalign: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = exit_code(error)
    return code


def quieten() -> None:
    """Other libraries' bars and warnings would stand between ours; `visalign doctor` tells what they warn of."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("xformers").setLevel(logging.ERROR)


def accepted(given: argparse.Namespace, rest: list[str]) -> list[str]:
    """What the parser left over, if the command takes changes and these are some; the first other word is an error."""
    takes = getattr(given, "takes_changes", False)
    wrong = [word for word in rest if not takes or word.startswith("-") or "=" not in word]
    if not wrong:
        return rest
    near = get_close_matches(wrong[0].split("=")[0], given.parser._option_string_actions, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    Parser.error(given.parser, f"{wrong[0]!r} is not understood{hint}")


def exit_code(error: Exception) -> int:
    """Print an error that is meant for the user in one line and return its exit code; raise any other."""
    codes = dict.fromkeys(classes(GIVEN_WRONG), 2) | dict.fromkeys(classes(RUN_FAILED), 1)
    code = next((code for known, code in codes.items() if isinstance(error, known)), None)
    if code is None:
        raise error
    if words.first_process():
        print("visalign:", *(line.strip() for line in str(error).splitlines()), file=sys.stderr)
    return code


def classes(places: Sequence[tuple[str, str]]) -> list[type[Exception]]:
    """The exception classes among `places` whose modules are loaded."""
    loaded = [(sys.modules[module], name) for module, name in places if module in sys.modules]
    return [getattr(module, name) for module, name in loaded if hasattr(module, name)]


def train_main(method: str, argv: Sequence[str] | None = None) -> NoReturn:
    """The door of a method file that is run as a script: `accelerate launch -m visalign.trainers.sft RECIPE a.b=c`."""
    words = list(sys.argv[1:] if argv is None else argv)
    raise SystemExit(main(["train", *words, f"method.name={method}"] if _plain(words) else ["train", *words]))


def _plain(words: Sequence[str]) -> bool:
    """Whether these words run something, rather than ask for help."""
    return not {"-h", "--help"} & set(words)
