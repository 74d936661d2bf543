#!/usr/bin/env bash
# All the tests, and the branch coverage of the module. Further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"

.venv/bin/python -m coverage run -m pytest "$@"
# A part of the tests covers a part of the module, so only the whole has to cover all of it.
if [ $# -eq 0 ]; then
  .venv/bin/python -m coverage report --fail-under=100
else
  .venv/bin/python -m coverage report
fi
