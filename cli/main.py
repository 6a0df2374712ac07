"""Entry point of `longsight`: builds the program and turns errors into one line and an exit code."""


def main() -> None:
    """Run the program."""
    raise SystemExit(1)
