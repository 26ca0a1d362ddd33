"""The claims ledger, a module per topic: each turns one kind of evidence into rows with verdicts (`row`)."""
