"""The command line: one command per file, listed in app.py."""


def main() -> None:
    """Runs the command of sys.argv and exits: 0 success, 1 failed, 2 wrong usage, 130 interrupted."""
    import sys

    try:
        from pyllm.cli.app import app

        app(prog_name="pyllm")
    except KeyboardInterrupt:  # before or after the command itself
        sys.exit(130)
