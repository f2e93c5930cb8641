"""Checks of files that somebody is to rely on, in plain words, and repair of those cut off."""
