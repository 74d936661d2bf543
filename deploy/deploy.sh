#!/usr/bin/env bash
# See deploy/deploy.sh --help.
exec "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" deploy "$@"
