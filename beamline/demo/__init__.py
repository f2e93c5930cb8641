"""The demonstration: scan a simulated beamline and hold what the files say against the truth."""
