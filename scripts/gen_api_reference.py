"""Write the tables of docs/api.md from the code, or check them: python scripts/gen_api_reference.py [--check]."""

import re
import sys
from pathlib import Path

from coordinator.rpc.roles import roles_table
from motet.connection.faults import errors_table
from motet.wire.v1 import control_pb2

PAGE = Path(__file__).resolve().parents[1] / "docs/api.md"


def calls_table() -> str:
    """Every call with its messages."""
    rows = ["| service | call | request | answer |", "|---|---|---|---|"]
    for service in control_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            answer = (
                f"stream of `{method.output_type.name}`"
                if method.server_streaming
                else f"`{method.output_type.name}`"
            )
            rows.append(f"| {service.name} | `{method.name}` | `{method.input_type.name}` | {answer} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its tables as the code says."""
    for name, table in (("roles", roles_table()), ("errors", errors_table()), ("calls", calls_table())):
        mark = f"<!-- {name}: written by scripts/gen_api_reference.py -->"
        pattern = re.compile(re.escape(mark) + r".*?<!-- end -->", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"{PAGE.name} has no place for the table of {name}")
        made = f"{mark}\n{table}\n<!-- end -->"
        text = pattern.sub(lambda _, made=made: made, text)
    return text


def main() -> None:
    """Entry point."""
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if "--check" in sys.argv[1:]:
        if made != text:
            sys.exit("docs/api.md is not what the code says; run python scripts/gen_api_reference.py")
        return
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
