"""Discovery for Meshless: ordinary Kubernetes YAML from files and folders."""
