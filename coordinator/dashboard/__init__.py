"""The dashboard: a read-only view of runs, clients and privacy, served by the coordinator. See docs/dashboard.md."""
