"""The coordinator: rounds, strategies, checkpoints, the consortium's documents and the daemon.

Layer: above `privacy`, at the same level as `client`, which it never imports.
"""
