"""What is left of a finished job as evidence for others: its transcript, the privacy of its patients, the ledgers' heads."""
