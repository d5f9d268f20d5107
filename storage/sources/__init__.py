"""Rows of users' files and data sets."""
