"""MIMIC-III and MIMIC-IV in the forms that the field uses."""
