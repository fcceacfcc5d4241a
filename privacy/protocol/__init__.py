"""What both secure sums share: sessions, keys, secrets, thresholds, encoding, consent, and the transcript.

    masking, encryption ──> protocol ──> randomness, prg

Nothing here knows which of the two sums it serves.
"""
