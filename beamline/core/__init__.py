"""Errors, configuration, units and PV names: what every other package builds on."""
