#!/usr/bin/env bash
# webdataset 0.2.111, `wids`: keys of one length that are not ASCII cost samples at the end of the tar, in silence.
#
# wids, the random access reader that VILA trains with, takes a member's name from its header. Python's tarfile, and so
# the TarWriter of the same package, writes a name that is not ASCII to a pax header before that, which wids passes over,
# and a `?` for each such letter to the header itself. wids counts samples by those names, of which equal ones are one,
# and then numbers all members: so many samples at the end of the tar, whatever their keys, cannot be asked for, and the
# index that `widsindex` makes counts in the same way. Seen: of 4 Russian words, 3 of them of five letters, and 2 English
# ones WebDataset reads 6 samples, wids 4, those of the Russian words; no error, no warning, and the counts agree.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 webdataset==0.2.111
cat >"$here/run.py" <<'PY'
import json
import sys
import warnings

import webdataset
import wids

warnings.simplefilter("error", UserWarning)
folder = sys.argv[1]
keys = ["кошка", "птица", "рыбка", "лев", "tiger", "zebra"]
with webdataset.TarWriter(f"{folder}/words.tar") as tar:
    for number, key in enumerate(keys):
        tar.write({"__key__": key, "txt": f"picture {number}"})
read = [(one["__key__"], one["txt"].decode()) for one in webdataset.WebDataset(f"{folder}/words.tar", shardshuffle=False)]
number = wids.wids.compute_num_samples(f"{folder}/words.tar")  # as `widsindex create` counts
shards = [{"url": f"{folder}/words.tar", "nsamples": number}]
index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
with open(f"{folder}/index.json", "w") as file:
    json.dump(index, file)
data = wids.ShardListDataset(f"{folder}/index.json", cache_dir=f"{folder}/cache", transformations=[])
by_wids = [(data[place]["__key__"], data[place][".txt"].read().decode()) for place in range(len(data))]
print(f"WebDataset: {read}")
print(f"wids: {number} by its index, {by_wids}")
assert read == [(key, f"picture {number}") for number, key in enumerate(keys)], "this has changed"
assert number == 4, "this has changed"
assert by_wids == [
    ("?????", "picture 0"), ("?????", "picture 1"), ("?????", "picture 2"), ("???", "picture 3")
], "this has changed"
PY
"$here/venv/bin/python" "$here/run.py" "$here"
