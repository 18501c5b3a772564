"""The command line: load, one verb, write. It drives from the CPU; an accelerator belongs to the child that leases it.

`coopt --help` must answer in half a second, so that nothing here, nor in `coopt/commands/table.py` and `parse.py`,
imports jax, numpy or pydantic: a verb is imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

FINE, REFUSED, USAGE, RESUMABLE, INTERRUPTED = 0, 1, 2, 75, 130


def run() -> NoReturn:
    """The `coopt` entry point; ends the process with one of the exit codes above."""
    from absl import app

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no rules or dots gets `?` for them
    try:
        app.run(main, argv=["coopt", *sys.argv[1:]], flags_parser=read)
    except KeyboardInterrupt:  # before `main` could say it better
        sys.exit(INTERRUPTED)
    sys.exit(FINE)


def read(argv: Sequence[str]) -> Any:
    """The options of a command line, or the end of the process with 2 and one sentence."""
    from coopt.commands.parse import Usage, parse

    try:
        return parse(argv[1:])
    except Usage as mistake:
        from coopt.problems import Problem

        if _wants_json(argv):
            _print_errors_json([Problem(expected="a command line that can be read", hint=str(mistake))])
        command = f"coopt {mistake.verb}".rstrip()
        print(f"{command}: {mistake}\nusage: `{command} --help` shows what can be written", file=sys.stderr)
        sys.exit(USAGE)


def main(options: Any) -> int:
    """Carries out one command and says how it went; the number is the process's exit code."""
    from coopt.problems import Problem, Refused
    from coopt.store.stop import Stopped, stopping

    with stopping() as stop:
        try:
            return _say(options, _carry_out(options))
        except Refused as refusal:
            return _refuse(options, refusal.problems)
        except BrokenPipeError:  # `coopt runs | head`: the reader has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FINE
        except (KeyboardInterrupt, Stopped, Exception) as failure:
            # A signal that lands inside a compiler's callback may come out as another exception: `stop` knows.
            if stop.requested or not isinstance(failure, Exception):
                return _stopped(options, terminated=stop.signal != signal.SIGINT)
            if options.debug:
                traceback.print_exc()
            return _refuse(options, [Problem(hint=_unexpected(failure, options))])


def _carry_out(options: Any) -> dict[str, Any]:
    """The verb's document."""
    from coopt.commands.table import COMMANDS

    command = COMMANDS[options.command]
    if command.jax:
        _driver()
    with _stdout_kept():
        return _function(command.run)(options)


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    """Stdout is the answer's alone: whatever a verb prints meanwhile goes to stderr, also from below Python.

    Solvers and compilers write to the descriptor itself (HiGHS 1.16 greets as soon as it is loaded).
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _driver() -> None:
    """JAX as the driver uses it: CPU, float64. Set in this process alone, so that children choose for themselves.

    The working folder becomes the last place where modules are looked for: `--program=mine:step` is a file there.
    """
    sys.path.append(os.getcwd())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the C++ side's chatter; read when jaxlib is loaded
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)


def _function(address: str) -> Callable[..., Any]:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def _say(options: Any, document: dict[str, Any]) -> int:
    """Prints the document, and its errors a sentence each."""
    from coopt.commands import say
    from coopt.commands.table import COMMANDS
    from coopt.problems import Problem

    problems = [Problem(**error) for error in document.get("errors", ())]
    if options.format == "json":
        print(say.as_json(document))
    else:
        rest = {key: value for key, value in document.items() if key != "errors"}
        text = _function(COMMANDS[options.command].show)(rest)
        if text:
            print(text)
    sys.stdout.flush()
    _sentences(problems)
    return REFUSED if problems else FINE


def _refuse(options: Any, problems: Sequence[Any]) -> int:
    if options.format == "json":
        _print_errors_json(problems)
    _sentences(problems)
    return REFUSED


def _print_errors_json(problems: Sequence[Any]) -> None:
    from coopt.commands import say

    print(say.as_json(say.errors(problems)), flush=True)


def _sentences(problems: Sequence[Any]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)


def _stopped(options: Any, *, terminated: bool) -> int:
    """Stopped by a signal: one line that says what goes on from here."""
    from coopt.problems import Problem

    went_on = "run it again"
    if options.command == "search":
        went_on = "the same command with --resume goes on from here (without, where no run had begun)"
    sentence = f"stopped by {'SIGTERM' if terminated else 'Ctrl-C'}; what was finished is kept: {went_on}"
    if options.format == "json":
        _print_errors_json([Problem(hint=sentence)])
    print(sentence, file=sys.stderr)
    return RESUMABLE if terminated else INTERRUPTED


def _unexpected(failure: BaseException, options: Any) -> str:
    """A failure that is not the user's: what it was, and how to see where."""
    what = " ".join(f"{type(failure).__name__}: {failure}".split())
    what = what if len(what) <= 400 else what[:397] + "..."
    again = "" if options.debug else f"; `coopt {options.command} --debug ...` shows where"
    return f"coopt {options.command} failed unexpectedly ({what}): please report it{again}"


def _wants_json(argv: Sequence[str]) -> bool:
    typed = " ".join(argv)
    return any(word in typed for word in ("--format=json", "--format json", " format=json"))
