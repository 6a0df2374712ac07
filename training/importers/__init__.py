"""Turn public data sets into log folders.

One module per source; what they share (reading raw tables, sampling negatives, writing the folder) lives beside them.
"""
