# Sourced by the scripts in this folder: makes .venv with what is pinned, once for each state of the
# pins, and goes to the project's folder. `set_up demo` installs what the demonstration needs,
# `set_up tests` all of requirements.txt, `set_up linters` .ci/requirements.txt besides.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

set_up() {
  local python wanted part
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
  # The file names the state of the pins, and then each part that is installed. What an
  # interruption has left half-done is made anew.
  wanted="$(cat requirements.txt .ci/requirements.txt | cksum)"
  if [ "$(head -n 1 .venv/set-up 2>/dev/null)" != "$wanted" ] || [ -e .venv/installing ]; then
    # It would be emptied first, and with a link that of somebody else.
    if [ -L .venv ]; then
      echo "$PWD/.venv is a symbolic link, and what it leads to is not what requirements.txt pins." \
        "Remove the link, so that this folder gets an environment of its own." >&2
      return 1
    fi
    echo "Setting up .venv, once ..." >&2
    "$python" -m venv --clear .venv
    echo "$wanted" > .venv/set-up
  fi
  for part in demo tests linters; do
    if ! grep -qx "$part" .venv/set-up; then
      install_part "$part"
    fi
    if [ "$part" = "$1" ]; then
      return
    fi
  done
}

install_part() {
  local pins=requirements.txt
  touch .venv/installing
  case "$1" in
    demo)
      pins=.venv/demo.txt
      sed '/^# --- Only for the tests/,$d' requirements.txt > "$pins"
      ;;
    linters) pins=.ci/requirements.txt ;;
  esac
  # Python compiles what it imports, which is a fraction of what is installed.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
    --requirement "$pins"
  echo "$1" >> .venv/set-up
  rm .venv/installing
}
