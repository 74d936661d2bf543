#!/usr/bin/env bash
# Runs one of the operators' commands: run.sh preview|deploy|remove [ARGUMENTS]
#
# The commands are Python (deploy/commands) on boto3. They run in deploy/.venv, which is made at the
# first run, and again when requirements.txt changes or a run was interrupted while it was made.
# Works in bash 3.2, which macOS has.
set -euo pipefail

fail() {
  echo "deploy/$command.sh: $1" >&2
  exit 6
}

command=$1
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv

is_new_enough() {
  # Debian has venv without ensurepip until python3-venv is installed.
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
  local names='python3 python3.14 python3.13 python3.12 python3.11 python3.10' name
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" ||
      fail "PYTHON is '$PYTHON', which is not Python 3.10 or newer with the venv module."
    python=$PYTHON
    return
  fi
  for name in $names; do
    if is_new_enough "$name"; then
      python=$name
      return
    fi
  done
  fail "Python 3.10 or newer with the venv module is needed (some systems have venv in a package \
of its own, such as python3-venv). Looked for: $names. PYTHON can name another."
}

set_up() {
  local python
  find_python
  # venv would empty what the link leads to.
  [ ! -L "$venv" ] || fail "$venv is a symbolic link. Remove it, so that a folder can be made there."
  echo "Setting up $venv, once ..." >&2
  "$python" -m venv --clear "$venv" || fail "could not make a virtual environment in $venv."
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --require-hashes --requirement "$here/requirements.txt" ||
    fail 'could not install what requirements.txt pins (see above). Is a package index reachable?'
  # Last, so that a set-up that was interrupted is begun anew.
  cp "$here/requirements.txt" "$venv/installed.txt"
}

# The Python of the set-up may have been removed meanwhile.
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt" ||
  ! "$venv/bin/python" -c '' 2>/dev/null; then
  set_up
fi

# Not `-m commands`, which would look for modules in the user's current folder first.
exec "$venv/bin/python" -c 'import runpy, sys
sys.path[0] = sys.argv.pop(1)
runpy.run_module("commands", run_name="__main__", alter_sys=True)' "$here" "$@"
