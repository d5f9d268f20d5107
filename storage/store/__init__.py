"""The store: artifacts by kind and key, made once, shared by processes and hosts."""
