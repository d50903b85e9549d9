"""``rlhf-audit``: one command, one module per subcommand.

Exit status, the same everywhere: 0 checked and fine, 1 tampered or false,
2 usage, 3 could not check, 130 interrupted. Results on stdout, everything else
on stderr. An error is one line that names the place; a traceback is shown only
with RLHF_AUDIT_DEBUG=1, since it may carry what an error message must not.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, TamperError
from rlhf_audit_trail import __version__, commands

PROGRAM = "rlhf-audit"
OK, TAMPERED, USAGE, COULD_NOT_CHECK, INTERRUPTED = 0, 1, 2, 3, 130

_EPILOG = """\
exit status: 0 checked and fine, 1 tampered or false, 2 usage, 3 could not check
results go to stdout (--json for machines), progress and logs to stderr
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole program, every command included."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Tamper-evident audit trails for training with human feedback.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log to stderr; twice for more")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in commands.NAMES:
        command = commands.load(name)
        examples = getattr(command, "EXAMPLES", "")
        child = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[:1].upper() + command.HELP[1:] + ".",
            epilog=f"examples:\n{_indented(examples)}\n{_EPILOG}" if examples else _EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(child)
        child.set_defaults(run=command.run, usage_of=child)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; raises SystemExit for usage and for ``--help``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is not None and named not in commands.NAMES:
        return _complain(f"unknown command {named!r}{_nearest(named)}", USAGE)
    parser = build_parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:  # under the command that was meant, not under the whole program
        getattr(args, "usage_of", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if named is None:
        parser.print_help(sys.stderr)
        return USAGE
    logging.basicConfig(
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        status: int = args.run(args)
        sys.stdout.flush()  # a reader that has gone must show here, not at interpreter exit
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the result has left (`| head`): nothing can be said, and nothing was said to be fine.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT_CHECK
    except ConfigError as error:
        return _complain(str(error), USAGE)
    except TamperError as error:
        return _complain(f"FAILED: {error}", TAMPERED)
    except (AuditTrailError, OSError) as error:
        return _complain(f"could not check: {error}", COULD_NOT_CHECK)
    except Exception as error:  # noqa: BLE001 - the process boundary: report a defect without its data
        return _complain(
            f"could not check: internal error {type(error).__name__} (RLHF_AUDIT_DEBUG=1 shows the traceback)",
            COULD_NOT_CHECK,
        )
    return status


def _complain(message: str, status: int) -> int:
    if os.environ.get("RLHF_AUDIT_DEBUG") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc(file=sys.stderr)
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return status


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, commands.NAMES, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(commands.NAMES)}"


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


if __name__ == "__main__":
    raise SystemExit(main())
