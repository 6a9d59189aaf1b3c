"""What lies on disk around a federation: secrets for their owners alone, and words for who comes without them."""

import os
import subprocess

import forked_motet
import psutil
import pytest

from coordinator.engine.superlink import QUIET, Child
from motet import deployed
from motet.recipe import load_recipe

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


def written(path):
    """The bytes of a database file that this process has open.

    Read by another process: POSIX drops all locks of a process on a file once it closes the file anywhere, and a
    coordinator that ends would then remove the log that our own connection writes to.
    """
    return subprocess.run(["cat", path], capture_output=True, check=True).stdout


def test_secrets_stay_in_files_that_only_their_owner_reads(federation, recipe_file):
    federation.finish(recipe_file("secrets", rounds=1))
    secret_file = federation.place / "superlink/secret"
    secret = secret_file.read_text().strip()
    private = [secret_file, federation.place / "tls/ca.key", federation.place / "tls/server.key"]
    private += [federation.client_home(name) / "client.key" for name in federation.data]
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)
    assert len(secret) >= 32
    spoken = [" ".join(p.cmdline()).encode() for p in federation.processes()]
    spoken += [p.read_bytes() for p in federation.home.rglob("*.log")]
    spoken += [written(path) for path in federation.place.glob("motet.db*")] + [federation.join.read_bytes()]
    keys = [p.read_bytes().splitlines()[1] for p in private if p.suffix == ".key"]
    assert not [word for word in (secret.encode(), *keys) if any(word in text for text in spoken)]
    assert any(
        b"coordinator.engine.gateway" in text for text in spoken
    )  # positive control: something was looked at


def test_a_client_without_a_join_file_or_a_key_is_told_what_to_do(federation, shards, tmp_path):
    start = ("client", "start", "--name", "a", "--data", shards / "a.jsonl", "--home", tmp_path / "no-key")
    without_join = federation.motet(*start, "--join", tmp_path / "none.json")
    assert without_join.returncode == 2
    assert "no such join file" in without_join.stderr
    without_key = federation.motet(*start, "--join", federation.join)
    assert without_key.returncode == 2
    assert "motet client init" in without_key.stderr


@pytest.fixture
def forked_children(monkeypatch):
    """The demo's processes cost a fork; with ``MOTET_TEST_FORK=0`` they are started as the demo does."""
    if not forked_motet.is_forked():
        return

    def start(name, words, log_path, environment):
        assert tuple(words[: len(deployed.MOTET)]) == deployed.MOTET
        arguments = words[len(deployed.MOTET) :]
        environment = {**os.environ, **QUIET, **environment}
        return Child(
            name=name,
            process=forked_motet.start(arguments, environment, forked_motet.ROOT, log_path),
            log_path=log_path,
        )

    forked_motet.run(["--version"], dict(os.environ), forked_motet.ROOT)  # the server that forks is there
    monkeypatch.setattr(deployed, "start", start)


@pytest.mark.usefixtures("forked_children")
def test_the_demos_federation_gives_the_embedded_adapter_and_ends_all_its_processes(
    recipe_file, embedded, tmp_path
):
    recipe_path = recipe_file("demo", rounds=2)
    seen = []
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    result = deployed.run_deployed(
        load_recipe(recipe_path), tmp_path / "out", on_step=lambda *s: seen.append(s[1:])
    )
    assert result["adapter_sha256"] == embedded(recipe_path)
    assert seen[0] == (0, 2)
    assert seen[-1] == (2, 2)
    assert [c["lora_rank"] for c in result["clients"]] == [1, 4, 7]
    assert len(result["curves"]["federated"]) == 3
    assert (tmp_path / "out/adapter/adapter_model.safetensors").stat().st_size > 1000
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before
