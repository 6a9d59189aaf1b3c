"""The limit of open files: raised to what the system allows, never lowered, and before anything is opened."""

import subprocess
import sys

import pytest

from coordinator import service

CODE = """
import resource, sys
from coordinator.open_files import allow_many_open_files
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow_many_open_files(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "now"),
    [(128, 512, 65_536, 512), (128, 512, 256, 256), (512, 512, 65_536, 512), (256, 512, 128, 256)],
    ids=["to the hard limit", "to what is wanted", "already there", "never lowered"],
)
def test_the_soft_limit_is_raised_as_far_as_the_system_allows(soft, hard, wanted, now):
    words = [sys.executable, "-c", CODE, str(soft), str(hard), str(wanted)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(now), str(now), str(hard)]


def test_a_coordinator_raises_it_before_it_opens_anything(tmp_path, monkeypatch):
    class RaisedError(Exception):
        pass

    def raised():
        raise RaisedError

    monkeypatch.setattr(service, "allow_many_open_files", raised)
    with pytest.raises(RaisedError):
        service.serve(service.ServiceConfig(home=tmp_path / "home"))
    assert not (tmp_path / "home").exists()
