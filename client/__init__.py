"""The hospital: its data, its training, its policy and its daemon.

Layer: above `privacy`, beside `server`, which it never imports.
"""
