"""``python -m emobench``."""

from emobench.cli.main import main

if __name__ == "__main__":
    main()
