"""Simulation on one machine: phantom hospitals, partitioners, the engine of virtual sites, the demo and the benchmarks.

Layer: highest below the command line; may import everything else.
"""
