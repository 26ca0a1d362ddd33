"""Commands that look at the whole or move things in and out, one module per topic. `mudit.cli` puts them together."""
