"""Targets as datasheets."""
