"""The command line: one command per file, listed in app.py."""


def main() -> None:
    """Runs the command of sys.argv and exits: 0 success, 1 failed, 2 wrong usage, 130 interrupted."""
    import signal
    import sys

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)  # an exception: what was begun is tidied up, children are ended

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), leave)
    try:
        from pyllm.cli.app import app

        app(prog_name="pyllm")
    except KeyboardInterrupt:  # before or after the command itself
        sys.exit(130)
