#!/usr/bin/env bash
# All the tests, on every core there is, and the branch coverage of the module. Arguments go to
# pytest: `tests/run.sh tests/test_zones.py` runs that file by itself, in seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"

pytest=(.venv/bin/python -m pytest)
if [ $# -eq 0 ]; then
  pytest+=(--numprocesses auto --dist worksteal)
fi
# pytest rewrites the asserts of all it loads; what it has rewritten is kept, out of the way.
export PYTHONDONTWRITEBYTECODE='' PYTHONPYCACHEPREFIX="$PWD/.venv/pycache"
.venv/bin/python -m coverage erase
# coverage starts itself in every process that has this variable, the workers of pytest-xdist too.
COVERAGE_PROCESS_START="$PWD/pyproject.toml" "${pytest[@]}" "$@"
.venv/bin/python -m coverage combine --quiet
# A part of the tests covers a part of the module, so only the whole is held to a share of it.
.venv/bin/python -m coverage report $([ $# -gt 0 ] || echo --fail-under=99)
