"""The sentence with which an operator accepts that files are decoded without a sandbox."""

ACCEPTED = "I accept that a damaged file may take over this site"
