"""Protection of updates: how a site protects its update and how protected updates are combined.

Layer: above `common`. Knows nothing of Flower, files or networks; every protocol here is sans-IO.
"""
