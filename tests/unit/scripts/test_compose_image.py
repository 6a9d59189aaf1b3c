"""What stands for our image in the runner is what the Dockerfile installs; it has all that a coordinator needs."""

import hashlib
import importlib.util

import pytest
from compose.errors import ComposeError
from compose.installed import install, let_through
from flwr.cli.build import build_fab_from_disk

from coordinator.engine import flower_link

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None,
    reason="hatchling, which builds the wheel, is not installed",
)


def test_an_installed_coordinator_has_the_bundle_that_clients_pin_to_the_byte(tmp_path, monkeypatch):
    packages = install(tmp_path / "image")
    for name in ("motet/cli/demos/classification.yaml", "coordinator/storage/migrations/env.py"):
        assert (packages / name).exists()
    assert not (packages / "tests").exists()
    checkout = flower_link.marker_sha256()
    monkeypatch.setattr(flower_link, "__file__", str(packages / "coordinator/engine/flower_link.py"))
    bundle = flower_link.marker_app_dir()
    assert bundle.is_relative_to(packages)
    assert hashlib.sha256(build_fab_from_disk(bundle)).hexdigest() == checkout


def test_a_dockerignore_that_lets_everything_in_by_default_is_refused():
    assert let_through("# why\n*\n!motet\n**/*.pyc\n") == ["motet"]
    with pytest.raises(ComposeError, match="begin"):
        let_through("tests\n!motet\n")
