"""A teacher behind an OpenAI-compatible vLLM server."""
