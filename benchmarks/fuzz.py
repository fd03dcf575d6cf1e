"""Coverage-guided fuzzing of every parser of ours, with atheris (extra ``fuzz``: Python up to 3.13 on Linux, x86-64).

    python benchmarks/fuzz.py --target datalist --seconds 120
    python benchmarks/fuzz.py --seconds 120 --json fuzz.json                  # every target, one after the other

Inputs that broke a promise are put into ``--found``; those that have taught us something lie in ``tests/fuzz/corpus``,
are the seeds of later runs, and are replayed by the tests, which do not need atheris.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "fuzz" / "corpus"
OURS, UNPICKLER = "monai_plan", "torch._weights_only_unpickler"
LIBRARIES = [
    *(f"PIL.{name}" for name in ("PngImagePlugin", "JpegImagePlugin", "ImageFile")),
    *(f"pydicom.{name}" for name in ("filereader", "dataset", "dataelem", "values", "pixels")),
    *(f"nibabel.{name}" for name in ("nifti1", "analyze", "arrayproxy", "volumeutils", "fileholders")),
]
"""Parsers in Python: those in C and Rust have fuzzers of their own."""
MEMORY_MIB = 2048
LONGEST = 16384  # bytes of an input
_FAULT = "FAULT "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", help="of those in fuzz_targets.py (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--found", type=Path, default=Path("fuzz_found"), help="where faulty inputs go")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--in_this_process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_this_process:
        _fuzz(options.target[0], options.seconds, options.found)
        return
    from fuzz_targets import TARGETS

    figures = {}
    for name in options.target or TARGETS:
        figures[name] = _measured(name, options.seconds, options.found)
        print(f"{name:<14} {json.dumps({k: v for k, v in figures[name].items() if k != 'faults'})}", flush=True)
        for fault in figures[name]["faults"]:
            print(f"  {fault}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _measured(name: str, seconds: int, found: Path) -> dict[str, Any]:
    """Run one target in a process of its own: libFuzzer ends its process, and a crash must not end the others."""
    words = ["--target", name, "--seconds", str(seconds), "--found", str(found), "--in_this_process"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, errors="replace", env=environment
    )
    units = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
    peak = re.findall(r"stat::peak_rss_mb: +(\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)
    faults = sorted({line.removeprefix(_FAULT) for line in done.stdout.splitlines() if line.startswith(_FAULT)})
    if done.returncode:
        faults.append(f"the process ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return {
        "seconds": seconds,
        "executions": int(units[-1]) if units else 0,
        "edges": int(coverage[-1][0]) if coverage else 0,
        "features": int(coverage[-1][1]) if coverage else 0,
        "peak_mib": int(peak[-1]) if peak else None,
        "faults": faults,
    }


def _fuzz(name: str, seconds: int, found: Path) -> None:
    import atheris

    # instrumenting slows imports down many times, so that of MONAI, torch and the like stays outside
    with atheris.instrument_imports(include=LIBRARIES):
        for module in LIBRARIES:
            importlib.import_module(module)
    importlib.import_module("monai")
    with atheris.instrument_imports(include=[OURS, UNPICKLER]):
        importlib.reload(importlib.import_module(UNPICKLER))
        from fuzz_targets import TARGETS, Fault, check
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target, seen = TARGETS[name], set()
    faulty = found / name
    faulty.mkdir(parents=True, exist_ok=True)
    out, silence = sys.stdout, io.StringIO()
    with tempfile.TemporaryDirectory(
        prefix=f"fuzz-{name}-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as room:
        folder, seeds = Path(room) / "own", Path(room) / "seeds"
        folder.mkdir()
        seeds.mkdir()
        for data in [*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]:
            (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

        def once(data: bytes) -> None:
            try:
                with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                    check(target, data, folder)
            except Fault as fault:
                where = re.sub(r"took .*", "took too long", str(fault).split(": ")[0])
                if where not in seen:
                    seen.add(where)
                    (faulty / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
                    print(f"{_FAULT}{str(fault)[:300]}".replace("\n", " "), file=out, flush=True)
            finally:
                silence.seek(0)
                silence.truncate()

        words = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=20", f"-rss_limit_mb={MEMORY_MIB}"]
        words += [f"-artifact_prefix={faulty}/", "-print_final_stats=1", str(seeds)]
        atheris.Setup([sys.argv[0], *words], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
