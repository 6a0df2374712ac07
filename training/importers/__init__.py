"""Turn public data sets into log folders.

One module per source; what they share (reading raw tables, sampling negatives) lives beside them.
"""
