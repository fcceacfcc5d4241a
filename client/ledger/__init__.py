"""The hospital's own book of what its patients' privacy has been spent on; append-only, hash-chained, kept by patients.

entries     what an entry says, and the chain of hashes
store       the book in SQLite: reserve, commit, close
spending    what was spent, by patients with the same history
"""
