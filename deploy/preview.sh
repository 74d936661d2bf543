#!/usr/bin/env bash
# See deploy/preview.sh --help.
exec "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" preview "$@"
