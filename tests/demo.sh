#!/usr/bin/env bash
# The main job against a simulated AWS account in memory, and a picture of what was decided.
# With a file name: sends the event in that file instead, for example deploy/test-event.json.
# With --html FILE: also writes the preview of the simulated account as a page.
set -euo pipefail
# File names are meant from where the user stands; the set-up goes to the project's folder.
from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
set_up demo
project=$PWD
cd "$from"

exec "$project/.venv/bin/python" "$project/tests/simulations/demo.py" "$@"
