"""The entry point of all commands: it runs a command's function under Hydra and exits with a documented code."""

import functools
import io
import logging
import os
import re
import secrets
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lab.cli.command_line import default_choices, needed_keys, overrides_first
from vae_lab.cli.completion import completion
from vae_lab.cli.hydra_errors import translate_message
from vae_lab.cli.hydra_files import hide_secrets
from vae_lab.cli.other_sweepers import is_own
from vae_lab.cli.overrides import config_dirs, normalise_overrides
from vae_lab.errors import PARTLY_FAILED, Interrupted, RanksLost, StorageError, SweepFailed, exit_code
from vae_lab.system.config_dir import CONF
from vae_lab.system.error_text import argument_problem, import_problem, nearest
from vae_lab.system.folders import provide_home
from vae_lab.system.masking import masked
from vae_lab.system.processes import ranks, size_warning
from vae_lab.system.quoting import parse, quote_override, quote_typed
from vae_lab.system.signals import EndAtOnce, handled_signals, ignore_signals
from vae_lab.system.threads import allowed_cores, check_threads, decide_threads, measured_threads, use_threads

log = logging.getLogger(__name__)

PATHS = (
    "data.root", "data.cache", "resume", "init", "run", "runs", "images", "against", "truth", "direction",
    "labels", "out", "logger.wandb.dir",
)  # fmt: skip
"""Settings that are paths, relative to the folder in which a command is started."""

Rewrite = Callable[[list[str]], list[str]]
"""A function that changes a command line before Hydra parses it."""


def command(
    config_name: str, rewrite: Rewrite | None = None
) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Return a decorator that turns a function of the composed config into a command.

    The command ends with an exit code of `vae_lab.errors`. Faults in vae_lab itself are printed with their traceback,
    other errors only with HYDRA_FULL_ERROR=1.

    Args:
        config_name: the primary config.
        rewrite: changes the command line before Hydra parses it.
    """

    def decorate(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        if rewrite is not None:
            vars(task)["rewrite"] = rewrite

        @functools.wraps(task)
        def main() -> None:
            sys.exit(run_until_signal(EndAtOnce("at once"), task, config_name))

        return main

    return decorate


def run_until_signal(end: EndAtOnce, task: Callable[[DictConfig], object], config_name: str) -> int:
    """Run a task and return its exit code; a signal ends it after `finally` blocks have removed temporary files.

    The process must exit afterwards, because the signal handlers are not restored.
    """
    for number in handled_signals():
        signal.signal(number, end)
    try:
        return run(task, config_name)
    except Interrupted as error:  # a signal arrived while another error was printed
        return exit_code(error)
    finally:
        ignore_signals()


def run(task: Callable[[DictConfig], object], config_name: str) -> int:
    """Run `task` under Hydra, once or as a sweep, and return the exit code."""
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them and exiting with 1
    os.environ["VAE_LAB_RUN"] = secrets.token_hex(3)  # two runs of the same second have different folders
    try:
        notes = prepare(config_name)
    except (ValueError, OSError) as error:  # logging is not set up yet
        sys.stderr.write(f"{error}\n")
        return exit_code(error)
    asks_for_help = {"--help", "-h"} & set(sys.argv[1:])
    if asks_for_help:
        sys.stdout.write(introduction(config_name))
        sys.argv[1:] = ["--cfg=job", *(argument for argument in sys.argv[1:] if argument not in asks_for_help)]
    codes: list[int] = []
    multirun = False
    pid = os.getpid()

    @functools.wraps(task)
    def job(cfg: DictConfig) -> None:
        nonlocal multirun
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        while notes:  # once
            log.warning("%s", notes.pop(0))
        try:
            hide_secrets(cfg)
            require_complete(cfg, config_name)
            require_given(cfg, config_name)
            keep_paths(cfg)
            check_threads(cfg.get("threads", 1))  # `report` has no setting `threads`
            task(cfg)
            codes.append(0)
        except Exception as error:  # printed here, so that the other jobs of a sweep run
            codes.append(print_error(error, verbose=verbose, config_name=config_name))
            if os.getpid() != pid and not is_own(HydraConfig.get()):  # tells the parent process that the job failed
                message = describe_error(error, config_name=config_name)[1]
                raise SweepFailed(f"job {HydraConfig.get().job.num}: {message}") from None

    try:
        sys.argv[1:] = normalise_overrides(overrides_first(sys.argv[1:], config_name), config_name)
        sys.argv[1:] = vars(task).get("rewrite", list)(sys.argv[1:])
        printed = completion(sys.argv[1:])
        if printed is not None:
            sys.stdout.write(printed)
            return 0
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        known = as_storage_error(error) if isinstance(error, OSError) else error
        return print_error(known, verbose=verbose, config_name=config_name)
    failures = [code for code in codes if code]
    return PARTLY_FAILED if multirun and failures else max(codes, default=0)


def prepare(config_name: str) -> list[str]:
    """Set up this process (encoding, quoting, rank), and return warnings to log once logging is set up.

    Raises:
        ValueError: if a variable of torchrun or srun is not a whole number.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that cannot encode a character
    sys.argv[1:] = quote_arguments(sys.argv[1:])
    notes = [provide_home(), size_warning() if config_name in {"train", "tune"} else None]
    if ranks().rank == 0:
        return [note for note in notes if note]
    sys.argv += [  # only rank 0 makes the run folder and writes into it
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    return []


def quote_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line with quotes around each value that Hydra cannot parse without them, as with blanks."""
    several = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments)
    sweeps = bool(several) or any(argument.startswith("sweep=") for argument in arguments)
    return [quote_typed(argument, sweeps=sweeps) for argument in arguments]


def require_complete(cfg: DictConfig, config_name: str) -> None:
    """Raise ValueError if the config lacks a setting or group that the command needs."""
    hydra_config = HydraConfig.get()
    lacking = [key for key in needed_keys(config_name) if key not in [*cfg] and key not in hydra_config.runtime.choices]
    if not lacking:
        return
    names, own = ", ".join(lacking), hydra_config.job.config_name
    if own != config_name:
        raise ValueError(
            f"--config-name {own} lacks {names}, which vae_lab.{config_name} needs; begin its defaults with"
            f" {config_name}."
        )
    choices = ", ".join(sorted(path.stem for path in (CONF / lacking[0]).glob("*.yaml")))
    remedy = f"choose one of {choices} with {lacking[0]}=" if choices else "leave it in"
    raise ValueError(f"~{lacking[0]}: vae_lab.{config_name} needs it; {remedy}.")


def keep_paths(cfg: DictConfig) -> None:
    """Make relative paths in the config absolute if Hydra has changed the working directory (`hydra.job.chdir`)."""
    hydra_config = HydraConfig.get()
    if not hydra_config.job.chdir:
        return
    for name in PATHS:
        value = OmegaConf.select(cfg, name)
        if isinstance(value, str) and not value.startswith("~"):
            OmegaConf.update(cfg, name, str(Path(hydra_config.runtime.cwd) / value))
        elif isinstance(value, ListConfig):
            paths = [str(one) for one in value]
            start = Path(hydra_config.runtime.cwd)
            OmegaConf.update(cfg, name, [one if one.startswith("~") else str(start / one) for one in paths])


def require_given(cfg: DictConfig, config_name: str) -> None:
    """Raise ValueError if a required setting has no value; the message includes the setting's comment in the YAML."""
    names = sorted(OmegaConf.missing_keys(cfg), reverse=True)  # run= before images=
    if not names:
        return
    lines = (CONF / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line.partition("# ")[2] for name in names for line in lines if line.startswith(f"{name}: ???")]
    what = f": {comments[0]}" if len(names) == len(comments) == 1 else "; --help describes them"
    raise ValueError(f"{' and '.join(f'{name}=' for name in names)} must be given{what}.")


def settle_threads(cfg: DictConfig, *, nprocesses: int = 1, kept: int | None = None) -> None:
    """Choose the number of CPU threads, apply it to this process, and write it into the config.

    Args:
        cfg: a config with the setting `threads`.
        nprocesses: processes on this machine that use this number each.
        kept: the number of the run, sweep or study that is resumed; None for a new one.
    """
    decided = decide_threads(cfg.threads, lambda: measured_threads(allowed_cores() // nprocesses), kept)
    if decided.is_news:
        log.info("%s", decided)
    use_threads(decided.number, nprocesses)
    cfg.threads = decided.number


def folder_to_run_dir(arguments: list[str]) -> list[str]:
    """Return the arguments with folder=… replaced by hydra.run.dir=…, so that Hydra writes into the same folder.

    The arguments of a sweep are unchanged; it refuses `folder` later, because it names the folders of its trials.

    Raises:
        ValueError: if both settings are given, or `folder` is empty.
    """
    folders = [text for text in arguments if text.startswith("folder=")]
    if not folders or {"-m", "--multirun"} & set(arguments):
        return arguments
    if any(text.startswith("hydra.run.dir=") for text in arguments) or folders[-1] in ("folder=", "folder=null"):
        raise ValueError(f"{folders[-1]}: name one folder, with folder= or hydra.run.dir=, or leave both out.")
    return [as_run_dir(text.removeprefix("folder=")) if text in folders else text for text in arguments]


def as_run_dir(folder: str) -> str:
    """Return the override hydra.run.dir=<folder>, with the folder quoted if Hydra would parse it as a number."""
    parsed = parse(f"hydra.run.dir={folder}")
    is_number = parsed is not None and isinstance(parsed.value(), int | float)
    return quote_override("hydra.run.dir", folder) if is_number else f"hydra.run.dir={folder}"


def as_storage_error(error: OSError) -> Exception:
    """Return a StorageError for an OSError about a file that cannot be written; return any other error unchanged."""
    if error.filename is None or isinstance(error, FileNotFoundError):
        return error
    return StorageError(f"{error.filename} cannot be written: {error.strerror}.")


def introduction(config_name: str) -> str:
    """Return the text that --help prints before the config: usage, examples, config groups and their choices.

    Hydra's own text is not used, because Hydra takes a second to find the groups.
    """
    choices: dict[str, set[str]] = {}
    lines = (CONF / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    examples = [line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    for folder in (CONF, *config_dirs(sys.argv[1:])) if default_choices(config_name) else ():
        for path in folder.glob("*/*.yaml"):
            choices.setdefault(path.parent.name, set()).add(path.stem)
    groups = [f"{name}: {', '.join(sorted(found))}" for name, found in sorted(choices.items())]
    return (
        f"python -m vae_lab.{config_name}{' [group=choice]' * bool(groups)} [setting=value] ...\n\n"
        + "\n".join([*examples, ""] + (["== Configuration groups ==", *groups, ""] if groups else []))
        + "\n== Settings ==\n--cfg job prints only these, --resolve follows references; -m a=1,2 b=3,4 runs all"
        " combinations;\n--hydra-help describes Hydra's flags.\n\n"
    )


def print_error(error: BaseException, *, verbose: bool = False, config_name: str = "train") -> int:
    """Log an error, or write it to stderr if logging is not set up, and return the exit code."""
    code, message = describe_error(error, verbose=verbose, config_name=config_name)
    message = masked(message)
    if logging.getLogger().handlers:
        log.error("%s", message)
    else:
        sys.stderr.write(f"{message}\n")
    return code


def describe_error(error: BaseException, *, verbose: bool = False, config_name: str = "train") -> tuple[int, str]:
    """Return the exit code and message of an error, with a traceback for a bug in vae_lab or if `verbose` is set."""
    cause, problem = error, argument_problem(error)
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None and not import_problem(cause):
        cause = cause.__cause__
    from_config = isinstance(error, InstantiationException) and isinstance(cause, TypeError)
    code = 2 if from_config or isinstance(cause, HydraException | OmegaConfBaseException) else exit_code(cause)
    message = cause.account if isinstance(cause, RanksLost) else problem or sentence(cause, config_name)
    if verbose or (code == 1 and not isinstance(cause, RanksLost)):
        message = "".join(traceback.format_exception(error)) + message
    notes = getattr(error, "__notes__", [])  # of a sweep: which trial
    ranked = [f"process {ranks().rank}"] if ranks().rank > 0 else []
    return code, ": ".join([*ranked, *notes, message])


def sentence(error: BaseException, config_name: str) -> str:
    """Return an error's message; a message of Hydra or OmegaConf is rewritten as one sentence with a remedy."""
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return text
    known = import_problem(error) or translate_message(text)
    if known:
        return known
    choices = re.search(
        r"(Could not find '[^']+').*Available options in '[^']+':\s*(.*?)(\n\n|\nConfig search|$)", text, re.DOTALL
    )
    if choices:
        plugin = re.search(r"'hydra/launcher/(submitit|joblib|ray)", choices[1])
        if plugin:
            extra = {"submitit": "slurm"}.get(plugin[1], plugin[1])
            return f"launcher={extra} is not installed: pip install 'vae_lab[{extra}]'."
        return f"{choices[1]}; choose one of {', '.join(choices[2].split())}."
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        inside = re.search(r"full_key: (\S+)", str(error.__cause__))
        return missing_setting(key[1], inside[1] if inside else "", config_name)
    return invalid_value(error, text.splitlines()[0])


def invalid_value(error: BaseException, line: str) -> str:
    """Return Hydra's message `line`, with a remedy if Hydra cannot parse a value or takes it for a sweep."""
    if isinstance(error, OverrideParseException):
        return f"{line}; to use the value as plain text, type {quote_literally(error.override)}."
    ambiguous = re.match("Ambiguous value for argument '(.*)'$", line)
    if ambiguous:
        text = ambiguous[1]
        return f"{text} is a sweep: add -m to run it, or type {quote_literally(text)} for one value with a comma."
    return line


def quote_literally(override: str) -> str:
    """Return an override quoted for Hydra and the shell, so that Hydra reads its value as plain text."""
    key, _, value = override.partition("=")
    return shlex.quote(quote_override(key, value))


def missing_setting(name: str, inside: str, config_name: str) -> str:
    """Return the message that the setting or group `name`, or the key `inside` below it, does not exist."""
    if name.startswith("hydra."):
        return f"There is no setting {name}; --cfg hydra lists Hydra's settings, and +{name}=… adds one to a mapping."
    if inside.startswith(f"{name}."):
        return f"There is no setting {inside}; +{inside}=… adds it, and ~ before a setting removes it."
    if any(text.startswith(("--config-name", "-cn")) for text in sys.argv):
        return (
            f"There is no setting {name} in the config that --config-name names; begin its defaults with {config_name}"
            " to include all settings."
        )
    known = known_keys(config_name)
    if name in known:
        return f"There is no setting {name} with the other choices; add --cfg job to list the settings."
    near = nearest(name, known)
    return f"There is no setting {name}" + (f"; did you mean {near}?" if near else "; --cfg job lists all settings.")


def known_keys(config_name: str) -> list[str]:
    """Return the dotted names of all settings and config groups of a command."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(config_name, return_hydra_config=True)
    groups = [group for group in config.hydra.runtime.choices if "/" not in group]
    settings = [name for name in _dotted(OmegaConf.to_container(config, resolve=False)) if name != "hydra"]
    return [*(name for name in settings if not name.startswith("hydra.")), *groups]


def _dotted(config: object, prefix: str = "") -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from _dotted(value, f"{prefix}{key}.")
