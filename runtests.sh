#!/usr/bin/env bash
# Everything that must hold, on a machine with nothing but Python 3.11 or newer:
#
#     bash runtests.sh
#
# A fresh virtual environment in .venv-test gets the pinned versions of constraints.txt; then style, types, directions
# of imports, and the tests. The last line is pytest's. To run again without installing, or in an environment of your
# own that has the extra "dev":
#
#     MONAI_PLAN_TEST_PYTHON=.venv-test/bin/python bash runtests.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.11 or newer was found (the pins of constraints.txt need it); install one, or name yours that has" \
        "the extra 'dev': MONAI_PLAN_TEST_PYTHON=/path/to/python bash runtests.sh" >&2
    return 1
}

if [ -n "${MONAI_PLAN_TEST_PYTHON:-}" ]; then
    python="$MONAI_PLAN_TEST_PYTHON"
else
    base=$(find_python)
    rm -rf .venv-test
    "$base" -m venv .venv-test
    python=.venv-test/bin/python
    echo "== install"
    "$python" -m pip install -q -c constraints.txt -e ".[dev]"
fi

# two test processes of one thread each: several threads beside another busy process are many times slower
export OMP_NUM_THREADS=1

echo "== ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .
echo "== mypy"
"$python" -m mypy
echo "== imports"
"$python" -c "from importlinter.cli import lint_imports_command as main; main()" --config setup.cfg --no-cache
echo "== pytest"
"$python" -m pytest -n 2
