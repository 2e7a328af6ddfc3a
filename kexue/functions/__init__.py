"""Functions: elementary functions replaced by others, and what the exchange does."""
