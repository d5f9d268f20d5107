"""Who runs works: this process, a process of its own, or nobody (what is not there is missed)."""
