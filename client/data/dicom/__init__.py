"""DICOM at a site: pixels, geometry, volumes, annotations and de-identification, all read in a sandboxed child process.

site ── isolation, cleaning ── channel, messages ── decoder_process ── reading, decoder_cleaning (in the child)
"""
