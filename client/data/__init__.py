"""The hospital's data: sources in, a catalogue of patients, studies and images, tensors out; bad files are counted."""
