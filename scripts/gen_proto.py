"""Generate motet/wire/v1 from proto/, or check that it is current: python scripts/gen_proto.py [--check]."""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
GENERATOR = "1.80.0"  # newer ones emit code for protobuf 7, which flwr does not admit


def generate(out: Path) -> None:
    """Write ``motet/wire/v1/*_pb2.py[i]``, and ``*_pb2_grpc.py`` where there are services, below ``out``."""
    if version("grpcio-tools") != GENERATOR:
        sys.exit(f"grpcio-tools is {version('grpcio-tools')}, the stubs are made with {GENERATOR}")
    target = out / "motet/wire/v1"
    target.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "proto/motet/v1").glob("*.proto")):
        arguments = [
            "protoc",
            f"-I{ROOT / 'proto/motet/v1'}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            str(source),
        ]
        has_services = "\nservice " in source.read_text(encoding="utf-8")
        if protoc.main([*arguments, *([f"--grpc_python_out={target}"] if has_services else [])]) != 0:
            sys.exit(f"{source}: protoc failed")
        if has_services:  # the generator takes the folder of its output for the root of imports
            made = target / f"{source.stem}_pb2_grpc.py"
            plain = f"import {source.stem}_pb2 as"
            text = made.read_text(encoding="utf-8").replace(plain, f"from motet.wire.v1 {plain}")
            made.write_text(text, encoding="utf-8")


def main() -> None:
    """Entry point."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for made in sorted(Path(folder).rglob("*_pb2.py*")):
            committed = ROOT / made.relative_to(folder)
            if not committed.exists() or committed.read_text() != made.read_text():
                sys.exit(
                    f"{committed.relative_to(ROOT)} is not what proto/ says; run python scripts/gen_proto.py"
                )
    print("stubs are current")


if __name__ == "__main__":
    main()
