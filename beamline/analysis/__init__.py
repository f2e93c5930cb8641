"""Answers from spectra and patterns: X-ray absorption fine structure."""
