"""Metrics of a segmentation as rows of numbers between 0 and 1, whose sums over all patients of all sites give the metrics.

Only sums leave a site, so a metric is a ratio of sums, or is read from a histogram of cases. A case is one image. A structure
that is absent from a case's true mask has no overlap to measure: such cases are counted apart.
"""
