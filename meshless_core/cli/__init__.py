"""The command line: one file per command, each with `command: click.Command`; `main` imports them when they are called."""
