"""What the package survives: kills, bad input, a long load. Each part can be run alone; a JSON that exists is updated.

python benchmarks/reliability.py --quick --json reliability.json
python benchmarks/reliability.py --parts kills --json benchmarks/results/reliability.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import about

from monai_plan.utils import write_json

PARTS = {
    "kills": "kill_trials",
    "faults": "fault_trials",
    "bad_inputs": "bad_input_trials",
    "soak": "soak",
    "load": "load",
}
"""Part to the module that measures it: ``measure(quick, folder)`` gives its figures, ``show(figures)`` a table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="few trials, less than two minutes in all")
    parser.add_argument("--json", type=Path, help="where the figures go; other parts' figures there are kept")
    options = parser.parse_args()
    if len(options.parts) > 1:  # each in a process of its own: some fork, which torch's threads do not survive
        common = [*(["--quick"] if options.quick else []), *(["--json", str(options.json)] if options.json else [])]
        for part in options.parts:
            subprocess.run([sys.executable, __file__, "--parts", part, *common], check=True)
        return
    (part,) = options.parts
    module = importlib.import_module(PARTS[part])
    with tempfile.TemporaryDirectory(prefix=f"{part}-") as folder:
        figures = module.measure(options.quick, Path(folder))
    print(module.show(figures), flush=True)
    if options.json:
        found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.is_file() else {}
        found.update({**figures, f"{part}_run": {**about(torch.device("cpu")), "quick": options.quick}})
        write_json(options.json, found)


if __name__ == "__main__":
    main()
