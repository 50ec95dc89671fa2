"""``python -m genserve`` is ``genserve``."""

from genserve.cli.main import app

if __name__ == "__main__":
    app(prog_name="genserve")
