"""X-ray photon correlation spectroscopy: files, maps, correlators and fits."""
