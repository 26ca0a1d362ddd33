"""`python -m mudit` is `mudit`."""

from mudit.cli import main

if __name__ == "__main__":
    main()
