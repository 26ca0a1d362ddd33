"""The page: evidence of one experiment (`evidence`), what it says about each claim (`ledger`), figures and their HTML (`page`)."""
