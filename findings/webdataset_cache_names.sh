#!/usr/bin/env bash
# webdataset 1.0.2, `cache_dir`: of two datasets with shards of the same names only the first is read, twice.
#
# A downloaded shard is kept under the last part of its URL, so that https://host/cats/00000.tar and
# https://host/dogs/00000.tar are one file of the cache. The second is never fetched: its samples are those of the
# first, in one mixture as in a later run with the same folder, without an error or a warning, and `__url__` in each
# sample still names the second. img2dataset calls the shards of every dataset 00000.tar, 00001.tar and so on. A mixture
# of originals and a recaptioned copy trains on one of the two. Seen: 3 cats and 3 dogs without a cache; with one,
# 6 cats, 3 of which say that they are from dogs/00000.tar.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
command -v curl >/dev/null || { echo "webdataset reads URLs by curl; install it" >&2; exit 1; }
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cat >"$here/run.py" <<'PY'
import functools
import http.server
import pathlib
import sys
import threading
import warnings

import webdataset

warnings.simplefilter("error", UserWarning)
root = pathlib.Path(sys.argv[1]) / "shards"
cache = pathlib.Path(sys.argv[1]) / "cache"
cache.mkdir()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def read(urls: list[str], **options: str) -> list[tuple[str, str]]:
    """The text of each sample, and the folder of the shard that it says it is from."""
    samples = webdataset.WebDataset(urls, shardshuffle=False, **options)
    return [(sample["txt"].decode(), sample["__url__"].split("/")[-2]) for sample in samples]


for name in ("cats", "dogs"):
    (root / name).mkdir(parents=True)
    with webdataset.TarWriter(str(root / name / "00000.tar")) as shard:
        for place in range(3):
            shard.write({"__key__": str(place), "txt": name})
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
threading.Thread(target=server.serve_forever, daemon=True).start()
urls = [f"http://127.0.0.1:{server.server_port}/{name}/00000.tar" for name in ("cats", "dogs")]
plain = read(urls)
cached = read(urls, cache_dir=str(cache))
later = read(urls[1:], cache_dir=str(cache))
kept = [file.name for file in cache.iterdir()]
server.shutdown()
server.server_close()
print(f"(text, folder named) without a cache: {plain}")
print(f"with one: {cached}; dogs alone, later: {later}; kept: {kept}")
assert plain == [("cats", "cats")] * 3 + [("dogs", "dogs")] * 3, "this has changed"
assert cached == [("cats", "cats")] * 3 + [("cats", "dogs")] * 3, "this has changed"
assert later == [("cats", "dogs")] * 3 and kept == ["00000.tar"], "this has changed"
PY
"$here/venv/bin/python" "$here/run.py" "$here"
