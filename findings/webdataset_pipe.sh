#!/usr/bin/env bash
# webdataset 1.0.2, `pipe:`: a command that fails between two members is the end of the shard, in silence.
#
# The exit code is asked for after each read and never after the last one, and nothing closes the stream. A
# download that breaks off where a member begins gives 4 of 8 samples and neither an error nor a warning, if its
# process takes a moment to end; broken off within a member the same command raises.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2
cat >"$here/run.py" <<'PY'
import io
import sys
import tarfile
import warnings

import webdataset

warnings.simplefilter("error")
folder = sys.argv[1]
with tarfile.open(f"{folder}/data.tar", "w") as tar:
    for number in range(8):
        for extension, size in (("jpg", 1000), ("txt", 7)):  # 2,560 bytes a sample, with headers and padding
            member = tarfile.TarInfo(f"{number:06}.{extension}")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))


def read(num_bytes):
    command = f"head -c {num_bytes} {folder}/data.tar; exec >&-; sleep 0.5; exit 1"
    return [sample["__key__"] for sample in webdataset.WebDataset(f"pipe:{command}", shardshuffle=False)]


keys = read(4 * 2560)
print(f"broken off between two members, exit code 1: no error, {len(keys)} of 8 samples: {keys}")
assert keys == ["000000", "000001", "000002", "000003"], "this has changed"
try:
    read(4 * 2560 + 600)
except Exception as error:
    print(f"broken off within a member: {type(error).__name__}")
else:
    raise SystemExit("no error within a member either: this has changed")
PY
"$here/venv/bin/python" "$here/run.py" "$here"
