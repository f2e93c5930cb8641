"""Serial crystallography: peaks on frames, detector geometry, CXI files."""
