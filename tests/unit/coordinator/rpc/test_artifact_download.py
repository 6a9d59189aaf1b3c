"""A download holds a frame of an artifact in memory, not the artifact."""

import os
import tracemalloc
from types import SimpleNamespace

import pytest

from coordinator.errors import StorageError
from coordinator.rpc.artifacts import CHUNK_BYTES, ArtifactServicer
from coordinator.storage.artifacts import ArtifactStore, open_artifacts
from motet.connection.errors import BadRequestError
from motet.wire.v1 import control_pb2

MB = 1 << 20


@pytest.fixture
def kept(tmp_path):
    """An encrypted store with artifacts of 3 MB, of not quite three chunks and of nothing; and who serves them."""
    artifacts = open_artifacts(tmp_path)
    assert isinstance(artifacts, ArtifactStore)
    data = os.urandom(3 * CHUNK_BYTES - 7)
    names = [artifacts.put(os.urandom(3 * MB)), artifacts.put(data), artifacts.put(b"")]
    store = SimpleNamespace(artifacts=lambda: [SimpleNamespace(sha256=n) for n in names])
    return SimpleNamespace(
        artifacts=artifacts,
        names=names,
        data=data,
        servicer=ArtifactServicer(SimpleNamespace(store=store, home=tmp_path)),
    )


def download(kept, number, offset=0):
    request = control_pb2.DownloadArtifactRequest(sha256=kept.names[number], offset=offset)
    return kept.servicer.DownloadArtifact(request, None)


def peak_of(act):
    """The most that Python allocated while it ran, in bytes."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_artifact_of_64_mb_leaves_with_less_than_8_mb_of_memory(kept):
    sent = [0]
    kept.names.append(kept.artifacts.put(os.urandom(MB) * 64))

    def receive():
        for chunk in download(kept, -1):
            assert chunk.offset == sent[0]
            sent[0] += len(chunk.data)

    assert peak_of(receive) < 8 * MB
    assert sent == [64 * MB]
    whole = peak_of(lambda: kept.artifacts.get(kept.names[-1]))  # positive control: as it was once
    assert whole > 64 * MB


@pytest.mark.parametrize("offset", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 5, 3 * CHUNK_BYTES - 8])
def test_a_download_goes_on_from_any_byte(kept, offset):
    chunks = list(download(kept, 1, offset))
    assert b"".join(c.data for c in chunks) == kept.data[offset:]
    assert chunks[0].offset == offset
    assert {c.num_bytes for c in chunks} == {len(kept.data)}


def test_nothing_is_left_of_an_artifact_that_was_had_whole_or_is_empty(kept):
    for number, size in ((1, len(kept.data)), (2, 0)):
        (chunk,) = download(kept, number, size)
        assert (chunk.data, chunk.offset, chunk.num_bytes) == (b"", size, size)
    with pytest.raises(BadRequestError):
        list(download(kept, 1, len(kept.data) + 1))


def test_no_byte_of_an_altered_artifact_leaves(kept):
    path = kept.artifacts.path_of(kept.names[0])
    with path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        byte = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    left = []
    with pytest.raises(StorageError):
        left.extend(download(kept, 0))
    assert left == []
