"""``mailfarm``, and ``python -m mailfarm``."""

import sys


def main() -> int:
    """Run a command; its exit code. ``health``, asked every few seconds in every container, loads nothing else."""
    if sys.argv[1:] == ["health"]:
        from .health import health

        return health()
    from .cli import main as any_command

    return any_command()


if __name__ == "__main__":
    sys.exit(main())
