"""Raw files to cohorts: samples keyed by id, with presence."""
