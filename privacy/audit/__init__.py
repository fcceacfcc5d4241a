"""What an attacker can learn from a release: measured, beside what the guarantee allows."""
