"""Registered models: where a fine-tuned model lies and what registering it learned."""
