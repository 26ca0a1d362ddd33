"""What a study will cost before anything is spent: operations, hours, memory, disk. Imports no torch, but for the rehearsal."""
