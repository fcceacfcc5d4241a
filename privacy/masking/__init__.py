"""The masked sum: the coordinator learns only the sum of the sites' vectors (protocol ``salus/masked-sum/1``).

Five exchanges; `privacy/masking/site.py` and `coordinator.py` draw the states of each side; `docs/masked-sum.md`
explains the guarantees for each party.

    exchange    request to a site           reply of a site                  the site refuses
    1           training task               advert: two keys, signed         a session that was opened before
    2           all adverts                 shares of its secrets, boxed     too few, unknown, double keys, bad signatures
    3           its boxes                   the masked vector, signed        a box that does not authenticate, too few
    4           the survivors               its consent, signed              not its peers, too few, too like an earlier sum
    5           the survivors' consents     shares, by its own lists         fewer than t valid consents to its own list

Not proven here: the composition with the session binding added to Bonawitz et al. 2017; it requires security analysis.
"""
