#!/usr/bin/env bash
# What the function would do in your account, before you deploy it. It only reads.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: deploy/preview.sh --targets tmt-...[,tmt-...] [--filter tmf-...]
                         [--region REGION] [--html FILE] [--json FILE]
                         [NAME=VALUE ...]

Shows what the function would do in your account, before you deploy it: what is
mirrored now, what would be, and what would stay dark, and why. It only reads,
with your own AWS credentials (AWS_PROFILE, SSO, environment variables and so
on) and the permissions in deploy/preview-policy.json. Roles in SENSOR_ROLE_ARNS
have to let you in, too.

  --targets IDS    traffic mirror targets of your sensors, separated by commas;
                   an account's 12 digits are all targets that it shows you
  --filter ID      traffic mirror filter (default: a placeholder; a preview
                   does not look at it)
  --region REGION  Region of the instances (default: that of your AWS set-up)
  --html FILE      write the same as a page, with every interface
  --json FILE      write every interface as the function's result has it
  NAME=VALUE       any variable of the function, for example
                   LOCAL_ZONE_ONLY=false EXCLUDE_TAGS=traffic-mirror=sensor

Exit status: 0 if everything is mirrored or would be, 3 if something would stay
dark, 2 if the call is wrong or a permission is missing.

Needs Python 3.10 or newer with venv; .venv is set up at the first run.
USAGE
}

for argument in "$@"; do
  case $argument in
    -h | --help)
      usage
      exit 0
      ;;
  esac
done

# File names are meant from where the user stands; the set-up goes to the project's folder.
from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/../tests/set_up.sh"
project=$PWD
cd "$from"

exec "$project/.venv/bin/python" "$project/deploy/preview.py" "$@"
