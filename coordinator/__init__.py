"""The service: engine, storage, the way to clients, export."""
