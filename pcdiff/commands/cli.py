"""What the commands share: flags from dataclasses, and a user's mistake as one line and exit status 2.

What takes long to import is imported where it is used: `--help` and a mistake are answered before.
"""

import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pcdiff.commands.arguments import fill
from pcdiff.config import EvaluateConfig, RunConfig, check, check_evaluation, with_part
from pcdiff.config.files import read_config, read_settings
from pcdiff.config.legacy_layout import FIRST_KINDS, RENAMED_FLAGS
from pcdiff.config.model import PARTS, known
from pcdiff.errors import InputError, WorkFailed, printable
from pcdiff.runtime.paths import check_paths, is_file
from pcdiff.runtime.stopping import Stopped
from pcdiff.runtime.user_modules import files_of, import_parts

T = TypeVar("T")

_READER_LEFT = 128 + 13  # SIGPIPE, which Windows has no name for


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    default: T | None = None,
    description: str = "",
    prog: str | None = None,
    where: str = "",
) -> T:
    """Fill a config dataclass from flags; `--latent-dim` and `--latent_dim` are the same flag.

    Args:
        cls: the dataclass.
        argv: the flags; the process's own by default.
        default: what the flags start from.
        description: first lines of `--help`; the dataclass's docstring by default.
        prog: how the program is called, for `--help`; the script's name by default.
        where: before the message of a mistake, the command that it is in.

    Raises:
        InputError: see `pcdiff.commands.arguments.fill`; a file to import that fails; or a path that cannot
            be one (see `pcdiff.runtime.paths.look`).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    import_parts(files_of(argv))
    options: dict[str, Any] = {} if default is None else {"default": default}
    config = fill(cls, argv, prog, where, description=description or None, **options)
    check_paths(config)
    return config


def parse_run(
    presets: Mapping[str, RunConfig],
    argv: Sequence[str] | None = None,
    description: str = "",
    prog: str | None = None,
) -> RunConfig:
    """Fill a `RunConfig` from flags, starting from the preset that `--preset` names, or from the resumed run's own.

    Another encoder, prior, net or process than the preset's starts from its own defaults.

    Raises:
        InputError: unknown preset, `--resume` names no run, or a value out of range.
    """
    argv = _spelled_out(sys.argv[1:] if argv is None else argv)
    import_parts(files_of(argv))
    resume = value_of("--resume", argv)
    named = {part: name for part in PARTS if (name := value_of(f"--{part}", argv)) is not None}
    for part, name in named.items():
        if (today := known(part).aliases.get(name)) is not None:
            named[part] = today
            argv = [*_without(f"--{part}", argv), f"--{part}", today]
    classes = {part: known(part).resolve(name) for part, name in named.items()}
    if resume is not None:
        default = read_config(Path(resume))
    else:
        from pcdiff.config.presets import preset

        default = preset(presets, value_of("--preset", argv) or "paper", value_of("--categories", argv))
        for part, name in named.items():
            if name != getattr(default.model, part):
                default = replace(default, model=with_part(default.model, part, name, classes[part]))
        if not getattr(classes.get("net"), "pointwise", "net" not in classes):
            # the presets' share of times goes with the presets' net
            default = replace(default, objective=replace(default.objective, times_per_cloud=1))
        if value_of("--kind", argv) == "completion":
            # of the points given: a part does not tell the whole cloud's own, nor has every data set one unit
            default = replace(default, data=replace(default.data, normalization="shape_unit_per_axis"))
        process = value_of("--process.name", argv), value_of("--process.predicts", argv)
        if process != (None, None):
            from pcdiff.models.change_process import adapted

            default = adapted(default, *process)
    config = parse(RunConfig, argv, default, description, prog)
    check(config)
    return config


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """Return arguments with the short names of flags written out; `--kind flow` of 0.1 is a prior."""
    found: list[str] = []
    for given in argv:
        flag, joined, value = given.partition("=")
        short = flag.replace("_", "-") if flag.startswith("--") else flag
        found.append(RENAMED_FLAGS.get(short, flag) + joined + value)
    kind = value_of("--kind", found)
    if kind in FIRST_KINDS:
        found = [*_without("--kind", found), "--kind", "latent"]
        if value_of("--prior", found) is None:
            found += ["--prior", FIRST_KINDS[kind]]
    if value_of("--prior", found) not in (None, "coupling"):
        # as in 0.1, which took the flags of all priors together
        of_coupling = {given for given in argv if given.replace("_", "-").startswith("--flow-")}
        for flag in {RENAMED_FLAGS.get(given.partition("=")[0].replace("_", "-"), given) for given in of_coupling}:
            found = _without(flag, found)
    return found


def _without(flag: str, argv: Sequence[str]) -> list[str]:
    """Return arguments without a flag and the values behind it."""
    left, dropping = [], False
    for given in argv:
        if given.startswith("--"):
            dropping = given.partition("=")[0] == flag
        if not dropping:
            left.append(given)
    return left


def parse_evaluation(
    argv: Sequence[str] | None = None, description: str = "", prog: str | None = None
) -> EvaluateConfig:
    """Fill an `EvaluateConfig` from flags, starting from those of the stopped evaluation that `--resume` names.

    Raises:
        InputError: `--resume` names no evaluation and no run, a metric is unknown, or flags contradict each other.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    resume, default = value_of("--resume", argv), None
    if resume is not None:
        folder = Path(resume)
        default = read_settings(folder)
        if default is not None:
            default = replace(default, out=folder)
        elif is_file(folder / "config.json"):  # a run, maybe scored elsewhere: --resume RUN --out OUT
            default = EvaluateConfig(run=folder)
        else:
            raise InputError(f"--resume {folder}: no stopped evaluation there; a finished one needs no more")
    config = parse(EvaluateConfig, argv, default, description, prog)
    check_evaluation(config)
    if config.metrics is not None:
        from pcdiff.metrics.evaluation import check_metrics

        check_metrics(config.metrics)
    if config.seed is None:
        from pcdiff.metrics import get_protocol

        config = replace(config, seed=get_protocol(config.protocol).seed)
    return config


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """Return what a flag is given among arguments, before they are parsed; None where it is not there."""
    for i, given in enumerate(argv):
        if given == flag and i + 1 < len(argv):
            return argv[i + 1]
        if given.startswith(f"{flag}="):
            return given.removeprefix(f"{flag}=")
    return None


def run(main: Callable[[], None]) -> None:
    """Run a script's main: an `InputError` becomes one line on stderr and exit status 2.

    So does what the system refuses of a file that a reader or writer did not expect to be refused; and with exit
    status 1 a divergence and a lost peer. A script that is stopped before there is anything to save prints that,
    and exits with status 0, as after every stop. Where the reader of the output has closed the pipe, as `| head`
    does, the script ends without a message, with the status that a shell gives such an end.
    """
    try:
        try:
            _report_errors(main)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if not any(_reader_left(stream) for stream in (sys.stdout, sys.stderr)):  # a pipe of another kind broke
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # else the interpreter reports the error again at exit
            os.dup2(nowhere, stream.fileno())
        sys.exit(_READER_LEFT)


def _reader_left(stream: TextIO) -> bool:
    """Return whether the reader of a stream's pipe has closed it."""
    poller = select.poll()
    poller.register(stream.fileno(), 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in poller.poll(0))


def _report_errors(main: Callable[[], None]) -> None:
    try:
        main()
    except Stopped:
        print("stopped before any work began", file=sys.stderr)
    except BrokenPipeError:
        raise
    except (InputError, WorkFailed) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {printable(error.filename)}: {printable(error.strerror or error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
