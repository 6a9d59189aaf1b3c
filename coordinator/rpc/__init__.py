"""The control API: what operators, researchers, auditors and clients ask of a coordinator."""
