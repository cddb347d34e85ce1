"""`python -m streamlearn`: the same as the console script."""

from streamlearn.cli import main

if __name__ == "__main__":
    main()
