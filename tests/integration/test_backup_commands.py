"""``motet backup`` beside a coordinator at work, and ``motet restore`` into a home that works as well."""

import json

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


def test_a_backup_beside_a_coordinator_at_work_is_restored_into_a_healthy_home(
    federation, recipe_file, tmp_path
):
    run_id = federation.finish(recipe_file("saved", rounds=1)).run_id
    under_way = federation.submit(recipe_file("under-way", rounds=2, local_steps=100_000, deadline_s=600))
    federation.wait_for_order(under_way, 0)
    (tmp_path / "pass").write_text("correct horse battery\n")
    out, back = tmp_path / "fed.motet", tmp_path / "back"
    keys = ("--passphrase-file", tmp_path / "pass")
    done = federation.motet("backup", "--home", federation.place, "--out", out, *keys, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["has_keys"]
    federation.store.request_cancel(under_way)
    federation.wait_for_end(under_way)
    refused = federation.motet("restore", out, "--home", back)
    assert (refused.returncode, back.exists()) == (8, False)
    done = federation.motet("restore", out, "--home", back, *keys, "--checkpoint", federation.place, "--json")
    told = json.loads(done.stdout) if done.returncode == 0 else None
    if told is None:  # the run went on after the backup, and its words are in the ledger
        assert done.returncode == 11
        assert "--accept-rollback" in done.stderr
        done = federation.motet("restore", out, "--home", back, *keys, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
    assert told["missing_keys"] == []
    rows = json.loads(federation.motet("run", "list", "--home", back, "--json").stdout)
    states = {row["run_id"]: row["state"] for row in (rows if isinstance(rows, list) else rows["runs"])}
    assert (states[run_id], states[under_way]) == ("FINISHED", "RUNNING")
    exported = federation.motet("export", run_id, "--home", back, "--out", tmp_path / "adapter")
    assert exported.returncode == 0, exported.stderr
    usage = federation.motet("backup", "--home", federation.place, "--out", tmp_path / "no.motet")
    assert usage.returncode == 2
    assert "--without-keys" in usage.stderr
