"""`python -m meshless_core.cli`: the command line without the installed script."""

from meshless_core.cli.main import main

main()
