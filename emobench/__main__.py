"""``python -m emobench``."""

from emobench.cli import main

if __name__ == "__main__":
    main()
