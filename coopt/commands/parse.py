"""From the words a user typed to options: flags before or after the verb, `key=value` wherever a flag may stand."""

from __future__ import annotations

import argparse
import difflib
import functools
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from absl import flags as absl_flags
from absl import logging as absl_logging  # noqa: F401  registers --verbosity and its kin
from absl.flags import argparse_flags

from coopt import __version__
from coopt.commands.table import COMMANDS, EVERYWHERE, FLAGS, Command

_SETTING = re.compile(r"([A-Za-z_]\w*(?:\.[\w-]+)*)=(.*)", re.DOTALL)
_AT_MOST = re.compile(r"--([\w-]+)<=(.*)", re.DOTALL)
_YES, _NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")


class Usage(Exception):
    """What was typed cannot be read; the sentence says what to type instead. `verb` is "" where none was read."""

    def __init__(self, sentence: str, verb: str = ""):
        super().__init__(sentence)
        self.verb = verb


class _Token(NamedTuple):
    kind: str  # flag | setting | word
    text: str
    key: str = ""
    value: str | None = None


class _Parser(argparse_flags.ArgumentParser):
    """An argparse parser that raises its complaint instead of ending the process."""

    def parse_known_args(self, args=None, namespace=None):
        try:
            return super().parse_known_args(args, namespace)
        except absl_flags.Error as mistake:  # a flag of absl's own, such as --verbosity
            self.error(str(mistake))

    def error(self, message: str) -> NoReturn:  # type: ignore[override]
        raise Usage(message, self.prog.removeprefix("coopt").strip())


def parse(typed: Sequence[str]) -> argparse.Namespace:
    """The options of what was typed after `coopt`, with `command` and `overrides` (dotted name to text) among them.

    Raises Usage for what cannot be read, SystemExit(0) after printing help.

    >>> options = parse(["--chips=1024", "explain", "model=llama3-70b", "--hardware", "dgx-h100", "layout.tp=8"])
    >>> options.command, options.chips, options.model, options.overrides
    ('explain', 1024, 'llama3-70b', {'layout.tp': '8'})
    """
    tokens = _tokens(typed)
    words = [token.text for token in tokens if token.kind == "word"]
    if not words:
        return _parse_bare(tokens)
    verb = words[0]
    for token in tokens:
        if token.kind == "flag" and not _is_known(token.key, {*FLAGS}):
            where = verb if verb in COMMANDS else ""
            raise Usage(f"there is no flag {token.text}{_meant(token.key, FLAGS, '--')}", where)
    if verb not in COMMANDS:
        raise Usage(f"there is no command {verb!r}{_meant(verb, COMMANDS)}; `coopt --help` lists them")
    command = COMMANDS[verb]
    tokens.remove(next(token for token in tokens if token.kind == "word"))
    known = {*command.flags, *EVERYWHERE}
    arguments, overrides = [], {}
    for token in tokens:
        if token.kind == "setting":
            arguments += _setting(token, verb, known, overrides)
        elif token.kind == "flag" and not _is_known(token.key, known):
            raise Usage(f"`coopt {verb}` has no flag --{token.key}{_meant(token.key, known, '--')}", verb)
        else:
            arguments.append(token.text)
            if token.kind == "flag" and token.value is not None:
                arguments[-1] += f"={token.value}"
    options = _parser(verb, command).parse_args(arguments)
    options.command, options.overrides = verb, overrides
    options.profile_path = tuple(filter(None, (options.profile_path or "").split(os.pathsep))) or None
    return options


def help_text() -> str:
    """What `coopt --help` prints.

    >>> "explain" in help_text()
    True
    """
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {verb:<{width}}  {command.help}" for verb, command in COMMANDS.items())
    return f"""\
usage: coopt COMMAND [arguments] [flags]

From hardware profiles and model families to ranked, measured and explained plans.

commands:
{rows}

Flags stand before or after the command, `--seq_len=4096` or `seq_len=4096`; `layout.tp=8` reaches inside.
`--format=json` prints one JSON document to stdout; logs and progress go to stderr.
`coopt COMMAND --help` shows a command's flags; `coopt search` alone is the place to start.
exit: 0 fine, 1 refused or failed, 2 usage, 75 stopped by SIGTERM and resumable, 130 Ctrl-C
"""


def _parse_bare(tokens: list[_Token]) -> argparse.Namespace:
    """No command was given: `--help`, `--version`, or a mistake."""
    names = [token.key or token.text for token in tokens]
    if "version" in names:
        print(__version__)
        raise SystemExit(0)
    if {"help", "helpfull", "-h"} & set(names):
        print(help_text(), end="")
        raise SystemExit(0)
    raise Usage("no command was given; `coopt --help` lists them, and `coopt search` is the place to start")


def _tokens(typed: Sequence[str]) -> list[_Token]:
    """What was typed, told apart: flags with their values, `key=value` settings, and plain words."""
    tokens, rest = [], list(typed)
    while rest:
        text = rest.pop(0)
        if text == "--":
            tokens += [_Token("word", word) for word in rest]
            break
        at_most, setting = _AT_MOST.fullmatch(text), _SETTING.fullmatch(text)
        if at_most:
            tokens.append(_flag(at_most[1], at_most[2]))
        elif text.startswith("--"):
            name, equals, value = text[2:].partition("=")
            if not equals and _takes_value(name.replace("-", "_")) and rest:
                equals, value = "=", rest.pop(0)
            tokens.append(_flag(name, value if equals else None))
        elif setting and not text.startswith("-"):
            tokens.append(_Token("setting", text, setting[1], setting[2]))
        else:
            tokens.append(_Token("word" if not text.startswith("-") else "flag", text, text if text[:1] == "-" else ""))
    return tokens


def _flag(name: str, value: str | None) -> _Token:
    key = name.replace("-", "_")
    return _Token("flag", f"--{key}", key, value)


def _setting(token: _Token, verb: str, known: set[str], overrides: dict[str, str]) -> list[str]:
    """`key=value` as the flag it names, or put among the overrides when it reaches inside one."""
    value = token.value or ""
    if token.key in known:
        if FLAGS[token.key].takes == "" and value.lower() in (*_YES, *_NO):
            return [f"--{token.key}"] if value.lower() in _YES else []
        return [f"--{token.key}={value}"]
    root, dot, _ = token.key.partition(".")
    inside = COMMANDS[verb].inside
    if not dot or root not in inside:
        choices = [*known, *(f"{name}." for name in inside)]
        raise Usage(f"`coopt {verb}` does not know {token.key!r} in {token.text!r}{_meant(token.key, choices)}", verb)
    if token.key in overrides:
        raise Usage(f"{token.key} is given twice: {overrides[token.key]!r} and {value!r}", verb)
    overrides[token.key] = value
    return []


def _takes_value(name: str) -> bool:
    if name in FLAGS:
        return FLAGS[name].takes != ""
    return name in absl_flags.FLAGS and not absl_flags.FLAGS[name].boolean


def _is_known(key: str, known: set[str]) -> bool:
    return key in known or key in ("help", "helpfull", "-h") or key.lstrip("-").removeprefix("no") in absl_flags.FLAGS


def _meant(given: str, choices, prefix: str = "") -> str:
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _parser(verb: str, command: Command) -> _Parser:
    """The parser of one command, built from its row of the table."""
    parser = _Parser(
        prog=f"coopt {verb}",
        description=command.help,
        epilog=f"example: {command.example}" if command.example else None,
        allow_abbrev=False,
    )
    for word in command.words:
        parser.add_argument(word.name, help=word.help, nargs=word.many or None)
    for name in (*command.flags, *EVERYWHERE):
        flag = FLAGS[name]
        if flag.takes == "":
            parser.add_argument(f"--{name}", help=flag.help, action="store_true")
            continue
        choices = flag.takes if isinstance(flag.takes, tuple) else None
        parser.add_argument(
            f"--{name}",
            help=flag.help + (f" (default: {flag.default})" if flag.default is not None else ""),
            type=_READ.get(str(flag.takes), str),
            choices=choices,
            metavar=None if choices else str(flag.takes),
            default=flag.default,
            required=name in command.required,
        )
    return parser


def _whole(text: str, least: int = 0) -> int:
    """A whole number: `1024`, `1_024`, `1e6`."""
    try:
        digits = text.replace("_", "").removeprefix("+")
        number = int(digits) if digits.isdecimal() else float(text)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf or number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
    return int(number)


def _number(text: str) -> float:
    """A finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


_READ = {"WHOLE": _whole, "COUNT": functools.partial(_whole, least=1), "NUMBER": _number}
