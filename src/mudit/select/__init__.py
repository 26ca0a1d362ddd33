"""From sweep records to a transfer certificate (`stage`) and to the target's hyperparameters (`transfer_stage`)."""
