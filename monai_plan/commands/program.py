"""The whole command line as one parser: the commands in the order in which a team uses them."""

from __future__ import annotations

from monai_plan._version import __version__
from monai_plan.commands.completion import add_completion
from monai_plan.commands.exchange import add_convert, add_pack
from monai_plan.commands.images import add_datalist, add_pipeline
from monai_plan.commands.parts import CommandParser, add_messages, help_end
from monai_plan.commands.results import add_audit, add_generate, add_ledger, add_release

__all__ = ["build_program"]

COMMANDS = (
    add_datalist,
    add_pipeline,
    add_audit,
    add_release,
    add_generate,
    add_ledger,
    add_convert,
    add_pack,
)


def build_program(name: str) -> CommandParser:
    """The parser of the program, whose results have the command's ``run`` and its words.

    Args:
        name: of the program, as people type it.
    """
    parser = CommandParser(
        prog=name,
        description="Privacy-preserving latent walks (PLAN): train MONAI classifiers on synthetic images\n"
        "instead of patients' pictures. First split your images by patient, then run the\n"
        "pipeline: it trains a generator, walks in its latent space, and compares a\n"
        "classifier on synthetic images with one on real ones. Audit the result before\n"
        "anything of it leaves; then release or generate.",
        epilog=help_end(
            "python -m monai_plan pipeline --bundle bundles/plan_tb --output_dir runs/phantoms  # no data needed\n"
            "python -m monai_plan pipeline --help",
            {},
        ),
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(
        title="commands, in the order in which a team uses them", dest="command", metavar="COMMAND"
    )
    for add in COMMANDS:
        add(subparsers)
    add_completion(subparsers, build_program)
    for one in (parser, *subparsers.choices.values()):
        add_messages(one)
    return parser
