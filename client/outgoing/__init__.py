"""What a model says about images, written as files: masks, labels and measurements.

They know arrays, geometry and the headers of source images, and nothing of running jobs, networks or catalogues.
"""
