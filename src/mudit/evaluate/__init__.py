"""Images from trained targets, and their metrics beside a real-vs-real floor."""
