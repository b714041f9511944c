"""`python -m stagekeeper`: the command line, also where its script is not on the path."""

from stagekeeper.commands import main

if __name__ == "__main__":
    main()
