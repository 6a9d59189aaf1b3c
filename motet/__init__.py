"""Motet: federated, privacy-preserving fine-tuning with low-rank adapters."""
