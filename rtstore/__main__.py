"""`python -m rtstore`: the command `rtstore`."""

from rtstore.cli import main

if __name__ == "__main__":
    main()
