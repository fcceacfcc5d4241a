"""The hospital's privacy ledger: what each patient's privacy budget was spent on; append-only and hash-chained.

entries     what an entry says, and the chain of hashes
store       the ledger in SQLite: reserve, commit, close
spending    what was spent, by patients with the same history
"""
