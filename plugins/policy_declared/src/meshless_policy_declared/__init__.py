"""Authorization for Meshless: a meshlet may use what it declares, if the service consents."""
