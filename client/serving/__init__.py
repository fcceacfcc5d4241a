"""A small DICOM node that predicts: studies arrive, wait in a spool, are predicted on, and their results go back to the PACS."""
