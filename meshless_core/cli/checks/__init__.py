"""What `meshless check` looks at, one file per source of facts; each returns findings and none prints."""

from meshless_core.cli.checks.finding import Finding, Level

__all__ = ["Finding", "Level"]
