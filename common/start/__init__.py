"""The start of a job: weights of an earlier package that travel as data and are checked by hash wherever they arrive.

weights    a package's parameters with their names, shapes and hashes; the hash of that list is what a job names
applying   which of them a job's network takes, and the network that begins with them
store      kept by their hash, at the coordinator and at each site
"""
