#!/usr/bin/env bash
# Makes lambda_traffic_mirror.zip, which is what AWS Lambda runs: the module and netaddr, at the
# version and with the hash that requirements.txt names. The same sources give the same bytes,
# whatever Python and zlib there are, so that hashes of zips can be compared.
#
# Needs Python 3.10 or newer with the venv module, and a package index to fetch netaddr from.
# Exit status: 0, 6 where that Python is missing, 7 where anything else keeps the zip from being
# made. The same numbers mean the same in deploy/deploy.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "build_zip.sh: $1" >&2
  exit "${2:-7}"
}

python="${PYTHON:-python3}"
"$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  fail "'$python' is not Python 3.10 or newer with the venv module; set PYTHON to one that is." 6

netaddr="$(grep -E '^netaddr==[0-9][0-9a-z.]*$' requirements.txt)" ||
  fail "requirements.txt does not pin netaddr in a line like 'netaddr==1.3.0'."
hash="$(sed -n 's/^# \(sha256:[0-9a-f]\{64\}\)$/\1/p' requirements.txt)"
[ -n "$hash" ] ||
  fail "requirements.txt does not name netaddr's hash in a line like '# sha256:0123…'."

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv" ||
  fail "could not make a virtual environment in $work. Some systems have it in a package of its own, such as python3-venv." 6
# A file of one line: pip wants a hash of every line as soon as one has it.
printf '%s --hash=%s\n' "$netaddr" "$hash" >"$work/netaddr.txt"
"$work/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
  --only-binary :all: --require-hashes --requirement "$work/netaddr.txt" --dest "$work" ||
  fail "could not fetch $netaddr with the hash that requirements.txt names."

"$work/venv/bin/python" - "$work" lambda_traffic_mirror.zip <<'PYTHON' || fail "could not make the zip."
import base64
import hashlib
import os
import sys
import zipfile
from pathlib import Path

work, target = Path(sys.argv[1]), Path(sys.argv[2])
(wheel,) = work.glob("netaddr-*.whl")

files = {"lambda_traffic_mirror.py": Path("lambda_traffic_mirror.py").read_bytes()}
with zipfile.ZipFile(wheel) as packed:
    for name in packed.namelist():
        if "LICENSE" in name or "COPYRIGHT" in name:
            # The licence asks that it stays with the code.
            files[f"netaddr/{name.rpartition('/')[2]}"] = packed.read(name)
        elif name.startswith("netaddr/") and name.endswith(".py"):
            # Registries of hardware vendors and address blocks (10 MB) and tests stay behind:
            # IPAddress and IPNetwork do not read them.
            if not name.startswith("netaddr/tests/"):
                files[name] = packed.read(name)
if not any("LICENSE" in name for name in files):
    sys.exit(f"{wheel.name} has no licence text")

new = work / target.name
# Stored, not deflated: another zlib would give other bytes of the same contents.
with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as zipped:
    for name in sorted(files):
        # Nothing of this machine, user or hour may get in: fixed time, fixed permissions (readable
        # by all, which Lambda needs), fixed order.
        info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        info.create_system = 3
        info.external_attr = 0o100644 << 16
        zipped.writestr(info, files[name])
if new.stat().st_size > 500_000:
    sys.exit(f"the zip has {new.stat().st_size:,} bytes, which is more than 500 kB")

# What has been packed is what will be imported.
sys.path.insert(0, str(new))
import netaddr

if not netaddr.__file__.startswith(str(new)) or 8 != netaddr.IPNetwork("10.0.0.0/8").prefixlen:
    sys.exit("netaddr does not work from the zip")
# Moved into place only now, so that a failed build leaves no half a zip.
data = new.read_bytes()
partial = target.with_suffix(".zip.part")
partial.write_bytes(data)
os.replace(partial, target)
digest = hashlib.sha256(data)
print(f"{target}: {len(data):,} bytes, netaddr {netaddr.__version__}")
print(f"SHA-256 {digest.hexdigest()}")
print(f"CodeSha256 {base64.b64encode(digest.digest()).decode()} (the same, as Lambda shows it)")
PYTHON
