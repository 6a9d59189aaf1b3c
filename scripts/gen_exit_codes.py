"""Write docs/exit-codes.md; with --check say whether it is current, and change nothing."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from motet.cli.exit_codes import exit_codes_page as page  # noqa: E402

TARGET = ROOT / "docs/exit-codes.md"

if "--check" in sys.argv:
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page():
        sys.exit("docs/exit-codes.md is not current: run python scripts/gen_exit_codes.py")
else:
    TARGET.write_text(page(), encoding="utf-8")
