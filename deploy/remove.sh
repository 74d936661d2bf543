#!/usr/bin/env bash
# See deploy/remove.sh --help.
exec "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" remove "$@"
