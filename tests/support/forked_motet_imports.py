"""What the fork server imports, in the order of a real start: first quiet, then the dependencies."""

import importlib
import os

from motet.cli.main import QUIET_ENVIRONMENT

os.environ.update(QUIET_ENVIRONMENT)

for name in (
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "client.capacity",
    "client.service",
    "client.worker",
    "coordinator.dashboard.server",
    "coordinator.service",
    "motet.cli.client",
    "motet.cli.coordinator",
    "motet.cli.run",
    "motet.cli.simulate",
    "motet.simulate",
):
    importlib.import_module(name)
