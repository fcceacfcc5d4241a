"""Classification of sequences: the visits or slices of a patient in their order, or the frames of a clip.

A patient's images have the order in which its data set lists them: that of the label file's rows or of the files' names. All of
them must have the same label, which is the patient's.
"""

from salus.common.tasks.several import Several


class Sequence(Several):
    """One label per sequence."""
