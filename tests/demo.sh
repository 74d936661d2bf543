#!/usr/bin/env bash
# The main job against a simulated AWS account in memory, and a picture of what was decided.
# With a file name: sends the event in that file instead, for example deploy/test-event.json.
set -euo pipefail
event=()
if [ $# -gt 0 ]; then
  # The name is meant from where the user stands; the set-up goes to the project's folder.
  event=("$(cd "$(dirname "$1")" 2>/dev/null && pwd || dirname "$1")/$(basename "$1")")
fi
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"

exec .venv/bin/python tests/simulations/demo.py ${event[@]+"${event[@]}"}
