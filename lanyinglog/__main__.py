"""``python -m lanyinglog`` is the program ``lanyinglog``; in a checkout it first makes the environment it needs."""

import sys

from lanyinglog import checkout

if __name__ == "__main__":
    checkout.ensure(["-m", "lanyinglog", *sys.argv[1:]])
    from lanyinglog.cli import main

    main()
