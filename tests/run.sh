#!/usr/bin/env bash
# All the tests, on every core there is, and the branch coverage of the module. Arguments go to
# pytest: `tests/run.sh tests/test_zones.py` runs that file by itself, in seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
set_up tests

# pytest rewrites the asserts of all it loads; what it has rewritten is kept, out of the way.
export PYTHONDONTWRITEBYTECODE='' PYTHONPYCACHEPREFIX="$PWD/.venv/pycache"
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/python -m coverage erase
# coverage starts itself in every process that has this variable, the workers of pytest-xdist too.
COVERAGE_PROCESS_START="$PWD/pyproject.toml" \
  .venv/bin/python -m pytest --numprocesses auto --dist worksteal
.venv/bin/python -m coverage combine --quiet
.venv/bin/python -m coverage report --fail-under=99
