"""What a run would do and take, from configs and manifests alone."""
