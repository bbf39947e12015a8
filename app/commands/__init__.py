"""The commands of `whence`, one group a module; `app/cli.py` puts them together."""
