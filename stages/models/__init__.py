"""Models: what is known of one, how it is loaded, what proves that it is the right one."""
