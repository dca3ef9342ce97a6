"""``python -m lanyinglog`` is the program ``lanyinglog``."""

from lanyinglog.cli import main

if __name__ == "__main__":
    main()
