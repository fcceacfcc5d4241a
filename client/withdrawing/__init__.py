"""A patient or a whole site withdraws: what was done with the data, the signed paper, and what is removed."""
