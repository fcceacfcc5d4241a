"""The parts that both sides share: job, identity, roster, tensors on the wire, errors, clock, events, tasks.

Layer: lowest. Imports no other part of Salus.
"""
