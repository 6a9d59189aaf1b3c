"""An auditor can recompute epsilon without installing torch."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "opacus", "transformers", "flwr"}:
            raise ImportError(f"{name} is blocked")
        return None

sys.meta_path.insert(0, Refuse())
"""


def run(tail: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PROGRAM + tail], capture_output=True, text=True, check=False)


def test_events_accounting_calibration_and_errors_import_without_torch():
    result = run(
        "import privacy, privacy.errors, privacy.events, privacy.accounting, privacy.calibration\n"
        "from privacy.calibration import calibrate_noise_multiplier\n"
        "print(calibrate_noise_multiplier(8.0, 1e-5, 0.1, 20))\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) > 0.05


def test_the_block_is_real():
    result = run("import privacy.noise\n")
    assert result.returncode != 0
    assert "torch is blocked" in result.stderr
