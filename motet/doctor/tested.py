"""Versions and model files that Motet was tested with; a test holds the ranges equal to pyproject.toml."""

from __future__ import annotations

PYTHON_LEAST = (3, 11)
RANGES = {
    "torch": ">=2.13,<2.14",
    "huggingface_hub": ">=2.4,<3",
    "transformers": ">=5.23,<6",
    "tokenizers": ">=0.23.1,<0.24",
    "peft": ">=0.21,<0.22",
    "opacus": ">=1.6,<1.7",
    "dp-accounting": ">=0.6,<0.7",
    "flwr": ">=1.41,<1.42",
    "grpcio": ">=1.80,<2",
    "grpcio-health-checking": ">=1.80,<2",
    "grpcio-reflection": ">=1.80,<2",
    "safetensors": ">=0.8,<0.9",
    "sqlalchemy": ">=2.0.45,<3",
    "alembic": ">=1.18.1,<2",
    "pydantic": ">=2.12,<3",
    "protobuf": ">=6.33,<7",
    "cryptography": ">=50,<51",
    "httpx": ">=0.28,<1",
    "httpcore": ">=1.0.9,<2",
    "prometheus-client": ">=0.26,<0.27",
    "uvicorn": ">=0.49,<0.50",
    "starlette": ">=1.3,<2",
    "jinja2": ">=3.1,<4",
    "markupsafe": ">=3,<4",
    "typer": ">=0.20,<0.21",
    "click": ">=8.2,<9",
    "rich": ">=14,<15",
    "pyyaml": ">=6,<7",
    "numpy": ">=2,<3",
    "scipy": ">=1.15,<2",
    "matplotlib": ">=3.10,<4",
    "pillow": ">=12,<14",
}
MODEL_SHA256 = {
    "minilm": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "smollm2": "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904",
    "dinov2-small": "8b38fc0f3652d5a3cd0a5f3b71eb3b0b68a34460a68814528cb1e25177fe6e30",
}
"""Model material -> SHA-256 of its model.safetensors in the cache."""
