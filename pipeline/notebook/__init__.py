"""tip in Python: runs to look at, in a notebook or a script; and what plays one."""
