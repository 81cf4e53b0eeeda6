"""Flags, gin and exit statuses, the same for every script: flags say where, gin says what."""

import contextlib
import difflib
import inspect
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from trainer import quiet, replaced

# Its warnings are kept in the log of a session; the setting is read when TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
with quiet.stderr_aside():
    import tensorflow

import gin
from absl import app, flags, logging
from gin import config_parser
from rich.console import Console
from rich.text import Text

from data.errors import DISK_FULL, RunFailure, UserError
from trainer.reports import live

# Pillow's, on odd metadata: what matters of an image is told by name, see `data.inspection`.
warnings.filterwarnings("ignore", module="PIL")

# Exit status of a run that ended early but can go on.
STOPPED = 75

STANDARD_MACROS = (
    "data_dir",
    "image_size",
    "batch_size",
    "learning_rate",
    "epochs",
    "backbone",
    "precision",
    "seed",
)
PROJECT = Path(__file__).resolve().parent.parent


def define_flags() -> None:
    """Registers the flags that every script has."""
    flags.DEFINE_string("workdir", None, "Folder of the session: everything it writes lies below it.")
    flags.DEFINE_multi_string("gin_file", [], "Recipe; may be given several times, later ones win.")
    flags.DEFINE_multi_string("gin_param", [], 'One gin binding, for example "epochs = 5"; beats every file.')
    flags.DEFINE_string("devices", "auto", "auto, cpu, cpu:N (N logical CPUs), gpu, or gpu:0,1.")
    flags.DEFINE_bool("quiet", False, "Prints warnings, errors and results only: no header, no progress.")


def is_quiet() -> bool:
    """Whether --quiet was given; without a command line it was not."""
    return flags.FLAGS.is_parsed() and "quiet" in flags.FLAGS and flags.FLAGS.quiet


def run(main: Callable[..., int | None], *, positional: bool = False) -> None:
    """Parses the flags, runs `main` and exits: 0 done, 2 wrong input, 3 run failed, 75 stopped early but saved.

    Args:
        positional: whether `main` takes the list of arguments that belong to no flag; otherwise they are refused.
    """
    quiet.divert()

    def parse(argv: Sequence[str]) -> list[str]:
        if {"--help", "-help", "-h"} & set(argv):
            _print_help(main)
            sys.exit(0)
        try:
            positional = flags.FLAGS(list(argv))
        # absl compares every unknown name, however long, with those that it knows.
        except (flags.Error, RecursionError) as error:
            _print_error(
                UserError(str(error), where="command line", expected="flags as --help lists them", do="--help")
            )
            sys.exit(UserError.exit_status)
        return positional

    def guarded(argv: Sequence[str]) -> int:
        # Until the loop listens itself.
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.default_int_handler)
        logging.set_verbosity(logging.WARNING)
        try:
            with live.taken_away():
                if positional:
                    return main(argv[1:]) or 0
                if len(argv) > 1:
                    raise UserError(
                        f"arguments that belong to no flag: {' '.join(argv[1:])}",
                        where="command line",
                        expected="flags only",
                        do='quote values with blanks: --gin_param="epochs = 5"',
                    )
                return main() or 0
        except UserError as error:
            _print_error(error)
            return error.exit_status
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            print("nobody reads the output any more: stopped; the same command goes on", file=sys.stderr)
            return STOPPED
        except KeyboardInterrupt:
            print("interrupted before there was anything new to save; the same command starts again", file=sys.stderr)
            return STOPPED
        except Exception as error:
            # They know the recipe, and it knows this module.
            from trainer import failures

            if failures.is_out_of_memory(error):
                _print_error(failures.of_memory(error))
                return RunFailure.exit_status
            full = error if isinstance(error, OSError) and error.errno in DISK_FULL else _full_disk()
            if full is None:
                quiet.tell()
                raise
            _print_error(
                RunFailure(
                    f"the disk is full: {full}",
                    where=str(full.filename or flags.FLAGS.workdir),
                    expected="space for what the run writes",
                    do="make room, then run the same command again; it goes on from the newest checkpoint",
                )
            )
            return RunFailure.exit_status

    app.run(guarded, flags_parser=parse)


def _full_disk() -> OSError | None:
    """What the disk of temporary files says where it takes no more.

    TensorFlow writes there what it makes of a function before it compiles it; where it cannot, it goes on without, and
    what then fails says nothing of a disk.
    """
    try:
        path = os.path.join(tempfile.gettempdir(), f"onward-{os.getpid()}")
    except FileNotFoundError as error:  # None of several folders takes anything.
        return error
    try:
        with open(path, "wb") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return OSError(error.errno, error.strerror, path) if error.errno in DISK_FULL else None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return None


def _print_help(main: Callable) -> None:
    """The script's docstring and the project's flags; absl shows neither where another module defines them."""
    print(sys.modules[main.__module__].__doc__)
    for module, known in flags.FLAGS.flags_by_module_dict().items():
        if not module.startswith(("absl", "tensorflow")):
            for flag in known:
                print(f"  --{flag.name}: {flag.help} (default: {flag.default!r})")


def _print_error(error: UserError) -> None:
    sys.stdout.flush()
    told = Text(f"error: {UserError.__str__(error)}")
    told.highlight_regex(r"\Aerror:", "bold red")
    told.highlight_regex(r"(?m)^  (?:where|expected|do):", "cyan")
    # Colours on a terminal only, and none where NO_COLOR is set.
    Console(file=sys.stderr, soft_wrap=True, highlight=False).print(told)
    sys.stderr.flush()


def required(name: str) -> str:
    """The value of a flag that must be given.

    Raises:
        UserError: it is missing.
    """
    value = getattr(flags.FLAGS, name)
    if not value:
        raise UserError(f"--{name} is missing", where="command line", expected=f"--{name}=...", do=f"add --{name}")
    return value


# What the bindings read last have replaced, as `bindings` names it; nothing has to use it.
_EXCUSED: set[tuple[str, str]] = set()


def parse_gin(files: Sequence[str], params: Sequence[str]) -> None:
    """Reads recipes and single bindings, the latter last. Relative paths are also looked up in the project.

    Raises:
        UserError: no such file, a syntax error, an unknown name; with the nearest known one.
    """
    gin.clear_config()
    gin.add_config_file_search_path(str(PROJECT))
    # gin itself would first look for a Python package called `configs`.
    paths = [str(PROJECT / file) if not Path(file).exists() and (PROJECT / file).exists() else file for file in files]
    verbosity = logging.get_verbosity()
    # Before it looks into the project, gin complains that the working directory has no such file.
    logging.set_verbosity(logging.FATAL)
    _EXCUSED.clear()
    try:
        for source in (*([path] for path in paths), []):
            before = replaced.snapshot()
            gin.parse_config_files_and_bindings(
                source, [] if source else list(params), finalize_config=False, print_includes_and_imports=False
            )
            _EXCUSED.update(replaced.excused(before))
    # A module that a recipe imports may fail in any way.
    except Exception as error:
        raise _explained(error) from error
    finally:
        logging.set_verbosity(verbosity)


def _explained(error: Exception) -> UserError:
    where = _place(error)
    text = str(error).split("\n  In ")[0].strip()
    if isinstance(error, OSError):
        return UserError(text, where="--gin_file", expected="a readable recipe", do="look into configs/")
    parameter = re.search(r"[Cc]onfigurable '([\w./]+)' doesn't have a parameter named '(\w+)'", text)
    if parameter:
        known = _parameters(parameter[1])
        return _unknown(f"{parameter[1]} has no parameter {parameter[2]!r}", parameter[2], known, where)
    selector = re.search(r"No configurable matching (?:reference )?'?@?([\w./]+)'?", text)
    if selector:
        known = [name for name, _ in gin.config._REGISTRY.items()]
        short = [name.split(".")[-1] for name in known]
        return _unknown(f"nothing is called {selector[1]!r}", selector[1].split(".")[-1].split("/")[-1], short, where)
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"the configuration cannot be read: {text if len(text) < 400 else first}",
        where=where,
        expected="lines like  name.parameter = value  with Python literals, %macros and @references",
        do="correct the line; strings need quotes, also on the command line",
    )


def _place(error: Exception) -> str:
    """The file and line, or the flag, that gin complains of."""
    if isinstance(error, SyntaxError) and error.lineno:
        file, line, content = error.filename, error.lineno, error.text or ""
    else:
        at = re.search(r'In (?:file "([^"]+)",|bindings string) line (\d+)\n(.*)', str(error))
        if not at:
            return "--gin_file or --gin_param"
        file, line, content = at.groups()
    if file:
        return f"{file} line {line}"
    return f'--gin_param="{content.strip()}"' if content.strip() else f"--gin_param, line {line} of all"


def _parameters(selector: str) -> list[str]:
    configurable = gin.config._REGISTRY.get_match(selector)
    return list(inspect.signature(configurable.wrapped).parameters) if configurable else []


def _unknown(found: str, name: str, known: Sequence[str], where: str) -> UserError:
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return UserError(
        found,
        where=where,
        expected=f"one of {', '.join(sorted(set(known) - {'macro', 'constant', 'singleton'}))}",
        do=f"did you mean {' or '.join(nearest)}?" if nearest else "look into configs/ for how it is written",
    )


def call(configurable: Callable, *arguments):
    """Calls a configurable whose other arguments all come from gin.

    Raises:
        UserError: a binding is missing, or of the wrong type.
    """
    try:
        return configurable(*arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, tensorflow.errors.OpError) as error:
        text = str(error).strip()
        if isinstance(error, RecursionError):
            text = "something refers to itself; give the inner one a scope of its own: @inner/one_of()"
        macro = re.search(r"In call to configurable 'macro' .* in scope '([\w/.]+)'", text)
        found = f"the macro %{macro[1]} has no value" if macro else " ".join(text.split())
        macros = [scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"]
        nearest = difflib.get_close_matches(macro[1], macros, n=3, cutoff=0.5) if macro else []
        raise UserError(
            found,
            where="the recipe",
            expected="every parameter bound to a value it can take",
            do=f"did you mean %{' or %'.join(nearest)}?" if nearest else "bind it in a --gin_file or with --gin_param",
        ) from error


def session_recipe(files: Sequence[str], params: Sequence[str], recipe: Callable):
    """The recipe of a session that has been: its own bindings need not be used any more, those of today have to be.

    Args:
        files, params: as `parse_gin` takes them.
        recipe: `trainer.recipe.Recipe`.

    Raises:
        UserError: as `parse_gin`, `call` and `check_consumed` do.
    """
    parse_gin(files, [])
    idle = bindings()
    parse_gin(files, params)
    found = call(recipe)
    check_consumed(but=idle)
    return found


def bindings() -> set[tuple[str, str]]:
    """What is bound: scope/selector and parameter of each binding."""
    return {(f"{scope}/{selector}", name) for (scope, selector), bound in gin.config._CONFIG.items() for name in bound}


def check_consumed(*, but: Collection[tuple[str, str]] = ()) -> None:
    """Refuses bindings that nothing asked for. Call it when everything configurable has been called, before training.

    Args:
        but: those of `bindings` that need not be asked for.

    Raises:
        UserError: lists them, each with the nearest name that was asked for.
    """
    consumed, idle_allowed = gin.config._OPERATIVE_CONFIG, {*but, *_EXCUSED}
    idle = []
    for (scope, selector), bound in gin.config._CONFIG.items():
        for parameter in bound:
            if (f"{scope}/{selector}", parameter) in idle_allowed:
                continue
            if selector == "gin.macro":
                if (scope, selector) not in consumed and scope not in STANDARD_MACROS:
                    nearest = difflib.get_close_matches(scope, [name for name, kind in consumed if kind == selector])
                    hint = nearest or difflib.get_close_matches(scope, STANDARD_MACROS)
                    idle.append(f"{scope}" + (f" (did you mean {hint[0]}?)" if hint else ""))
            elif not any(
                parameter in asked
                and kind == selector
                and (inner == scope or not scope or inner.startswith(f"{scope}/"))
                for (inner, kind), asked in consumed.items()
            ):
                idle.append(f"{scope + '/' if scope else ''}{selector.split('.')[-1]}.{parameter}")
    if idle:
        raise UserError(
            f"bindings that nothing uses: {', '.join(idle)}",
            where="--gin_file or --gin_param",
            expected="bindings of what this run is made of",
            do="remove them, or refer to what they configure, for example train.policy = @policy()",
        )


def settings(config: str, *, where: str = "config.gin") -> dict[str, str]:
    """The bindings of a gin text, `scope/name.parameter` or macro -> value as written.

    Raises:
        UserError: it is no gin text.
    """

    class Written(config_parser.ParserDelegate):
        def configurable_reference(self, scoped_configurable_name, evaluate):
            return _Literal(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

        def macro(self, scoped_macro_name):
            return _Literal(f"%{scoped_macro_name}")

    found = {}
    try:
        for statement in config_parser.ConfigParser(config, Written()):
            if isinstance(statement, config_parser.BindingStatement):
                scope = f"{statement.scope}/" if statement.scope else ""
                parameter = f".{statement.arg_name}" if statement.arg_name else ""
                found[f"{scope}{statement.selector}{parameter}"] = repr(statement.value)
    # gin leaves open what its parser raises: also what Python's tokenizer and its limits do.
    except Exception as error:
        raise UserError(
            f"not readable as gin: {error}",
            where=where,
            expected="the operative configuration of the session",
            do="put config.gin back from the newest config-STEP.gin, or start a new --workdir",
        ) from error
    return found


class _Literal(str):
    def __repr__(self) -> str:
        return str(self)


def defaults(names: Collection[str]) -> dict[str, str]:
    """Those of `settings` that have a default which can be written down, with it, as written there."""
    found = {}
    for name in names:
        selector, _, parameter = name.split("/")[-1].rpartition(".")
        configurable = gin.config._REGISTRY.get_match(selector) if selector else None
        known = inspect.signature(configurable.wrapped).parameters if configurable else {}
        if parameter in known and isinstance(known[parameter].default, (str, int, float, tuple, type(None))):
            found[name] = repr(known[parameter].default)
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of the settings that differ, sorted."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
