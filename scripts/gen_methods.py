"""Write the tables of docs/methods.md; with --check say whether they are current, and change nothing."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from aggregation.options import as_markdown as options_as_markdown  # noqa: E402
from aggregation.sizes import as_markdown as sizes_as_markdown  # noqa: E402
from aggregation.table import as_markdown  # noqa: E402

TARGET = ROOT / "docs/methods.md"
BEGIN, END = "<!-- made by scripts/gen_methods.py -->\n", "<!-- end -->\n"

text = TARGET.read_text(encoding="utf-8")
head, _, rest = text.partition(BEGIN)
_, _, tail = rest.partition(END)
wanted = head + BEGIN + as_markdown() + "\n" + sizes_as_markdown() + "\n" + options_as_markdown() + END + tail
if "--check" in sys.argv:
    if text != wanted:
        sys.exit("docs/methods.md is not current: run python scripts/gen_methods.py")
else:
    TARGET.write_text(wanted, encoding="utf-8")
