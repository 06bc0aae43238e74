"""Telling people: templates, channels, and the promise of the next update."""
