"""PENDING."""
