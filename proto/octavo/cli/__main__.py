"""`python -m octavo.cli`, as `octavo`."""

from octavo.cli import main

main()
