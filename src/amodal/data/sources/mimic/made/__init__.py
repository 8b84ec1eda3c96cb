"""Made data in the layouts of MIMIC-III and MIMIC-IV, with a planted truth."""
