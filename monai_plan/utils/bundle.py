"""What a bundle's config needs of the process that runs it: where it stands, and faults that can be read."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, run

from monai_plan.utils.errors import RunError

__all__ = [
    "config_ids",
    "explain_errors",
    "find_bundle_root",
    "knows_id",
    "refuse_unknown_options",
    "root_cause",
    "running_config",
    "similar_ids",
]


def find_bundle_root() -> str:
    """The folder of the bundle whose config is being run, whatever the working directory.

    A config cannot name its own place, and MONAI puts it into ``sys.path`` only after ``initialize``; so the workflow
    is looked up among the callers. Without one (a bare ConfigParser) it is ``"."``, MONAI's own default.
    """
    workflow = _running_workflow()
    if workflow is None:
        return "."
    folder = Path(workflow.config_root_path).resolve()
    return str(folder.parent if folder.name == "configs" else folder)


def running_config() -> dict[str, Any]:
    """The whole config that is being run, with what was overridden; empty without a workflow."""
    workflow = _running_workflow()
    return {} if workflow is None else dict(workflow.parser.get())


def _running_workflow() -> ConfigWorkflow | None:
    """The workflow among the callers."""
    frame = inspect.currentframe()
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return workflow
        frame = frame.f_back
    return None


def root_cause(error: BaseException) -> BaseException:
    """The error behind MONAI's wrappings ("Failed to evaluate …", "Failed to instantiate …")."""
    while error.__cause__ is not None and isinstance(error, RuntimeError) and not isinstance(error, RunError):
        error = error.__cause__
    return error


def explain_errors() -> None:
    """Let an uncaught error end with its root cause as the last line, below the traceback.

    MONAI's runner ends with the config expression that failed, and the reason stands many lines above.
    """
    if sys.excepthook is not _hook:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    if root_cause(error) is not error:
        print(f"error: {root_cause(error)}", file=sys.stderr)


def refuse_unknown_options(bundle_root: str) -> None:
    """Refuse command-line options of ``python -m monai.bundle run`` that no config of the bundle has.

    MONAI adds an unknown id to the config, where nothing reads it: a misspelt setting would silently keep its default.
    Does nothing where another program runs the config, or with ``--args_file``.

    Raises:
        ValueError: an option is unknown.
    """
    program, *words = sys.argv
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or "run" not in words[:1]:
        return
    given = [word[2:].partition("=")[0].replace("-", "_").replace("::", "#") for word in words if word.startswith("--")]
    configs = [ConfigParser.load_config_file(str(f)) for f in sorted((Path(bundle_root) / "configs").glob("*.json"))]
    if "args_file" in given or not configs:
        return
    for name in set(given) - set(inspect.signature(run).parameters):
        if not any(knows_id(config, name) for config in configs):
            raise ValueError(
                f"no config of '{bundle_root}' has the id '{name}'{similar_ids(name, configs)}. Correct --{name}; an "
                "id of your own belongs into a config file of your own"
            )


def knows_id(config: Any, name: str) -> bool:
    """Whether setting the id ``name`` changes something: it is in the config, or an argument of a component in it."""
    ids = set(config_ids(config))
    return name in ids or f"{name.rpartition('#')[0]}#_target_" in ids


def config_ids(config: Any, prefix: str = "") -> Iterator[str]:
    """Every id of a config, e.g. ``train``, ``train#handlers``, ``train#handlers#0``."""
    items: Any = ()
    if isinstance(config, dict):
        items = config.items()
    elif isinstance(config, list):
        items = enumerate(config)
    for key, value in items:
        name = f"{prefix}{str(key).lstrip('+')}"
        yield name
        yield from config_ids(value, f"{name}#")


def similar_ids(name: str, configs: Sequence[Any]) -> str:
    """``; did you mean …?`` with the ids nearest to ``name``, or nothing."""
    ids = {known for config in configs for known in config_ids(config)}
    close = difflib.get_close_matches(name, sorted(ids), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""
