"""Benchmarks: Salus compared with a peer or a lower bound in the same run. To add one: a file here, a test, a line below.

Each returns one JSON object with ``ours_*``, ``peer_*`` and ``floor_*`` figures, ``machine`` and ``versions``; null without
a peer or floor.
"""

from salus.common.registry import Registry

BENCHMARKS = Registry(
    "benchmark",
    "salus.benchmarks",
    {
        "cache": "salus.simulations.benchmarks.cache:run",
        "device": "salus.simulations.benchmarks.device:run",
        "dp": "salus.simulations.benchmarks.dp:run",
        "encryption": "salus.simulations.benchmarks.encryption:run",
        "evaluation": "salus.simulations.benchmarks.evaluation:run",
        "harmonisation": "salus.simulations.benchmarks.harmonisation:run",
        "importing": "salus.simulations.benchmarks.importing:run",
        "link": "salus.simulations.benchmarks.link:run",
        "masking": "salus.simulations.benchmarks.masking:run",
        "memory": "salus.simulations.benchmarks.memory:run",
        "privacy": "salus.simulations.benchmarks.privacy:run",
        "scale": "salus.simulations.benchmarks.scale:run",
        "text": "salus.simulations.benchmarks.text:run",
    },
)
