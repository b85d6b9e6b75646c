"""A data set of a few images, its files, a cache and a mirror, all in a temporary folder."""

import functools
import gzip
import hashlib
import http.server
import struct
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from nestax_studies.data import _catalogue
from nestax_studies.data._catalogue import Entry, IdxFile


def idx_bytes(array: np.ndarray) -> bytes:
    """The idx file of an array of unsigned bytes, written out from the definition."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.tobytes()


@dataclass
class Tiny:
    """The data set "tiny": 6 + 4 images of 3x2 in 3 classes."""

    entry: Entry
    arrays: list[np.ndarray]
    archives: dict[str, bytes]
    cache: Path

    def write(self, folder: Path) -> Path:
        """Writes the four files into a folder."""
        folder.mkdir(parents=True)
        for name, data in self.archives.items():
            (folder / name).write_bytes(data)
        return folder


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Tiny:
    """The data set in the catalogue, its files nowhere yet, `NESTAX_DATA` not set."""
    pooch = pytest.importorskip("pooch")
    draw = np.random.RandomState(1)
    arrays, files, archives = [], [], {}
    for part, count in (("train", 6), ("t10k", 4)):
        for kind, shape, top in (("images-idx3", (count, 3, 2), 256), ("labels-idx1", (count,), 3)):
            array = draw.randint(0, top, shape).astype(np.uint8)
            name, content = f"{part}-{kind}-ubyte.gz", idx_bytes(array)
            archive = gzip.compress(content, mtime=0)
            sums = (hashlib.md5(data).hexdigest() for data in (archive, content))
            files.append(IdxFile(name, array.shape, *sums))
            arrays.append(array)
            archives[name] = archive
    entry = Entry("tiny", 6, 4, (3, 2), 3, 255, "none", "made up", tuple(files))
    monkeypatch.setitem(_catalogue.CATALOGUE, "tiny", entry)
    monkeypatch.delenv("NESTAX_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return Tiny(entry, arrays, archives, tmp_path / "cache" / "nestax" / "tiny")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def mirror(tiny, tmp_path, monkeypatch):
    """A mirror of "tiny" on this machine; yields the folder that it serves."""
    folder = tiny.write(tmp_path / "mirror")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        entry = replace(tiny.entry, mirrors=(url,))
        monkeypatch.setitem(_catalogue.CATALOGUE, "tiny", entry)
        tiny.entry = entry
        yield folder
        server.shutdown()
        thread.join()
