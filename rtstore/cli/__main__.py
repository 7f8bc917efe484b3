"""`python -m rtstore.cli`: the command `rtstore`."""

from rtstore.cli import main

if __name__ == "__main__":
    main()
