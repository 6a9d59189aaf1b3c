"""By which files a home is known as a coordinator's or as a client's."""

COORDINATOR_SIGNS = ("motet.db", "database.url", "coordinator.lock", "tls")
CLIENT_SIGNS = ("client.key", "ledger.jsonl", "lineages.jsonl")
