# Sourced by the scripts in this folder: makes .venv with what requirements.txt pins, once for each
# state of that file, and goes to the project's folder.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

set_up() {
  local python wanted
  for python in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if [ -n "$python" ] && "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' \
        2>/dev/null; then
      break
    fi
    python=
  done
  if [ -z "$python" ]; then
    echo "Python 3.10 or newer with the venv module is needed, and there is none on the PATH." >&2
    return 1
  fi
  wanted="$(cksum < requirements.txt)"
  if [ "$(cat .venv/requirements.cksum 2>/dev/null)" != "$wanted" ]; then
    # It would be emptied first, and with a link that of somebody else.
    if [ -L .venv ]; then
      echo "$PWD/.venv is a symbolic link, and what it leads to is not what requirements.txt pins." \
        "Remove the link, so that this folder gets an environment of its own." >&2
      return 1
    fi
    echo "Setting up .venv, once (about a minute) ..." >&2
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
    echo "$wanted" > .venv/requirements.cksum
  fi
}

set_up
