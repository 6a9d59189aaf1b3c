"""Write docs/recipe.md; with --check say whether it is current, and change nothing."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from motet.recipe.reference_page import recipe_page as page  # noqa: E402

TARGET = ROOT / "docs/recipe.md"

if "--check" in sys.argv:
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page():
        sys.exit("docs/recipe.md is not current: run python scripts/gen_recipe_reference.py")
else:
    TARGET.write_text(page(), encoding="utf-8")
