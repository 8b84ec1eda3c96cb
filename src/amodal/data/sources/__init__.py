"""Sources of cohorts: open data sets and generators, one file or folder each."""
