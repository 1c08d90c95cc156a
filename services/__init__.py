"""Services to try, and to copy."""
