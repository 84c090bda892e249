"""`python -m glot`: the `glot` command."""

from glot.commands.app import main

if __name__ == "__main__":
    main()
