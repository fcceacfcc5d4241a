"""What both sides must agree on: job, identity, roster, tensors on the wire, errors, clock, events, tasks.

Layer: lowest. Imports nothing of Salus but itself.
"""
