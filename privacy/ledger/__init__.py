"""The verifiable ledger: canonical entries, a hash chain, a Merkle tree, signed checkpoints. No torch, no SQL."""
