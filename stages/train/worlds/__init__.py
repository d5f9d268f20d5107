"""Worlds: the processes that train together. One is all there is to a training on one device."""
