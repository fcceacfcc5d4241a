"""What stands between a site and the coordinator: how an update is protected and how protected updates are combined.

Layer: above `common`. Knows nothing of Flower, files or networks; every protocol here is sans-IO.
"""
