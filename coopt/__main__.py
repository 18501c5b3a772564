"""`python -m coopt` is `coopt`."""

from coopt.cli import run

if __name__ == "__main__":
    run()
