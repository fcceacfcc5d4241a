"""The coordinator: rounds, strategies, checkpoints, the consortium's documents and the daemon.

Layer: above `privacy`, beside `client`, which it never imports.
"""
